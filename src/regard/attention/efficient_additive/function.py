"""Efficient additive attention (SwiftFormer): every token sees one pooled query."""

from __future__ import annotations

from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention._pooling import TokenNorm
from regard.attention.efficient_additive import reference
from regard.attention.efficient_additive.arguments import prepare
from regard.attention.efficient_additive.op import OPERATOR


@overridable
@autocasting
def efficient_additive_attention(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    *,
    token_norm: TokenNorm = "l2",
    scale: float | None = None,
    backend: Backend = None,
) -> tuple[Tensor, Tensor]:
    r"""Multiply every unit key by one query, pooled from the unit queries of all tokens.

    $$ \hat q_n = q_n / \|q_n\|, \quad \hat k_n = k_n / \|k_n\|, \quad a_n = s\, \hat q_n \cdot w $$
    $$ A = \mathrm{norm}_n(a), \quad G = \sum_n A_n \hat q_n, \quad y_n = G \odot \hat k_n $$

    The queries are scored and pooled, the context meets the keys, and there is no value. SwiftFormer exists in two
    generations with the same parameters; which `token_norm` belongs to a checkpoint cannot be read off its tensors.

    Args:
        query: `[B, *grid, C]`, projected but not normalized; may be a strided view.
        key: `[B, *grid, C]`, also not normalized.
        weight: `[C]`, the authors' `w_g`.
        token_norm: how the scores are normalized over the tokens. "l2": signed weights with squares summing to 1, as
            in the authors' code and weights since July 2023 and in timm. "ones": every weight is 1 and `weight` gets
            a gradient of zero, as in the first release and in Hugging Face's `MBZUAI/swiftformer-*`. "softmax": the
            paper's text; no published weights use it.
        scale: factor on the scores, C ** -0.5 if None. "l2" and "ones" cancel it, but for a scale of 0: then all
            weights of "l2" are 0.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        The context on the unit keys, `[B, *grid, C]`, and the unit queries, `[B, *grid, C]`, which
        `EfficientAdditiveAttention` adds after projecting the first.

    Raises:
        ShapeError: sizes that do not fit together.
        OptionError: an unknown `token_norm`.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        11 * B * N * C FLOPs for N tokens. Reads 2 * B * N * C elements and writes as many, which is what the fused
        kernel's two passes do; the reference has temporaries of that size.

    Precision:
        The reference computes in the inputs' dtype, the fused kernel in float32 for 16-bit inputs. Norms are clamped at
        1e-12, and in float16, where that is zero, at the smallest normal number.

    Source:
        SwiftFormer (arXiv 2303.15446); `EfficientAdditiveAttnetion` of Amshaker/SwiftFormer, models/swiftformer.py,
        at 4aa6cd6 ("l2") and at 574907f ("ones").

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 14, 14, 32).unbind()
        >>> context_on_keys, unit_query = efficient_additive_attention(q, k, torch.randn(32))
        >>> context_on_keys.shape, unit_query.shape
        (torch.Size([1, 14, 14, 32]), torch.Size([1, 14, 14, 32]))
    """
    arguments, reasons = prepare(query, key, weight, token_norm=token_norm, scale=scale)
    if choose_backend(backend, reasons) == "fused":
        return OPERATOR(*arguments)
    return reference.efficient_additive_attention(*arguments)


@autocasting
def efficient_additive_weights(
    query: Tensor, weight: Tensor, *, token_norm: TokenNorm = "l2", scale: float | None = None
) -> Tensor:
    """Return the weights with which `efficient_additive_attention` pools, for the same arguments; no key is needed.

    Returns:
        `[B, *grid]`. Over the grid, their squares sum to 1 ("l2"), they sum to 1 ("softmax"), or they are all 1.

    Example:
        >>> import torch
        >>> efficient_additive_weights(torch.randn(1, 9, 8), torch.randn(8)).square().sum().allclose(torch.tensor(1.0))
        True
    """
    arguments, _ = prepare(query, query, weight, token_norm=token_norm, scale=scale)
    return reference.efficient_additive_weights(query, *arguments[2:])
