"""Talking-heads attention: softmax attention whose heads are mixed before and after the softmax."""

from __future__ import annotations

from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.talking_heads import reference
from regard.attention.talking_heads.arguments import prepare
from regard.attention.talking_heads.op import OPERATOR


@overridable
@autocasting
def talking_heads_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    *,
    logits_bias: Tensor | None = None,
    weights_bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: Backend = None,
) -> Tensor:
    r"""Attend from every query to every key, with heads mixed before and after the softmax.

    $$ L = P_l\, (s\, Q K^\top) + b_l \qquad U = P_w\, \mathrm{softmax}(L) + b_w \qquad Y = U V $$

    Both products with P act on the heads alone. The three head counts may differ: h_k of query and key, h of the
    softmax, h_v of value.

    Args:
        query: `[B, *grid, h_k, hd]`, a grid of one, two or three axes, N positions; may be a strided view.
        key: `[B, *grid, h_k, hd]`, M positions; the grid may differ from query's.
        value: `[B, *grid, h_v, hd_v]`, on key's grid.
        logits_mix: P_l, `[h, h_k]`, laid out like the weight of an `nn.Linear`.
        weights_mix: P_w, `[h_v, h]`.
        logits_bias: b_l, `[h]`. The same for all keys of a head, so the softmax cancels it; published checkpoints
            contain it. Its gradient is 0 from the kernel and rounding error from the reference.
        weights_bias: b_w, `[h_v]`: adds b times the sum of all values.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping a mixed weight.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        `[B, *grid, h_v, hd_v]` on query's grid.

    Raises:
        ShapeError: sizes that do not fit together.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        2 * B * N * M * (h_k * hd + h * (h_k + h_v) + h_v * hd_v) FLOPs. The reference stores B * N * M elements for
        each of the h_k, h and h_v heads; the fused kernel those of a few queries per thread, and a second copy of the
        keys and values of one batch entry.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs.

    Source:
        Talking-Heads Attention (arXiv 2003.02436, section 3); biases and order as in CaiT, `Attention_talking_head` in
        facebookresearch/deit, cait_models.py.

    Example: six heads for queries and keys, four softmaxes, two heads of values.
        >>> import torch
        >>> q, k = torch.randn(2, 1, 7, 7, 6, 16).unbind()
        >>> v = torch.randn(1, 7, 7, 2, 16)
        >>> talking_heads_attention(q, k, v, torch.randn(4, 6), torch.randn(2, 4)).shape
        torch.Size([1, 7, 7, 2, 16])
    """
    arguments, reasons = prepare(
        query,
        key,
        value,
        logits_mix,
        weights_mix,
        logits_bias=logits_bias,
        weights_bias=weights_bias,
        scale=scale,
        dropout_p=dropout_p,
    )
    if choose_backend(backend, reasons) == "fused":
        return OPERATOR(*arguments[:-1])
    return reference.talking_heads_attention(*arguments)


@autocasting
def talking_heads_weights(
    query: Tensor,
    key: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    *,
    logits_bias: Tensor | None = None,
    weights_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the weights that `talking_heads_attention` applies to the values, for the same arguments.

    Returns:
        `[B, h_v, N, M]`, after the second mix, positions in row-major order of their grids. A mix of softmax rows is
        not itself a softmax row: rows need not sum to 1, and weights may be negative.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 9, 4, 8).unbind()
        >>> talking_heads_weights(q, k, torch.randn(4, 4), torch.randn(4, 4)).shape
        torch.Size([1, 4, 9, 9])
    """
    arguments, _ = prepare(
        query, key, None, logits_mix, weights_mix, logits_bias=logits_bias, weights_bias=weights_bias, scale=scale
    )
    return reference.talking_heads_weights(arguments.query, arguments.key, *arguments[3:-1])
