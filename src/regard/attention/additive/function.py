"""Additive attention (Fastformer): every query sees two pooled context vectors."""

from __future__ import annotations

from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.additive import reference
from regard.attention.additive.arguments import prepare
from regard.attention.additive.op import OPERATOR


@overridable
@autocasting
def additive_attention(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    *,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
    backend: Backend = None,
) -> Tensor:
    r"""Multiply every query by a global key, which is pooled from the keys with the help of a global query.

    $$ \alpha = \mathrm{softmax}_n(s\,(W_q q_n + b_q)), \quad g_q = \sum_n \alpha_n q_n, \quad p_n = k_n \odot g_q $$
    $$ \beta = \mathrm{softmax}_n(s\,(W_k p_n + b_k)), \quad g_k = \sum_n \beta_n p_n, \quad u_n = q_n \odot g_k $$

    The softmax runs over the tokens, separately for every head. A head's scores are read from the channels of all
    heads; its pooled vectors hold its own channels. The query is the value: there is no third projection.

    Args:
        query: `[B, *grid, nh, hd]`, a grid of one, two or three axes; may be a strided view.
        key: `[B, *grid, nh, hd]`.
        query_weight: `[nh, nh * hd]`, scores the queries.
        key_weight: `[nh, nh * hd]`, scores the products of key and global query.
        query_bias: `[nh]`. The same for all tokens, so the softmax cancels it; published weights contain it.
        key_bias: `[nh]`; the softmax cancels it too.
        scale: factor on the scores, bias included, hd ** -0.5 if None.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        `[B, *grid, nh, hd]`, u of the formula. `AdditiveAttention` projects it and adds the query.

    Raises:
        ShapeError: sizes that do not fit together.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        B * N * C * (4 * nh + 6) FLOPs for N tokens of C = nh * hd channels. Reads 2 * B * N * C elements and writes
        B * N * C; the reference has temporaries of that size.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs.

    Source:
        Fastformer (arXiv 2108.09084); `FastSelfAttention` of wuch15/Fastformer, Fastformer.ipynb.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 14, 14, 2, 16).unbind()
        >>> additive_attention(q, k, torch.randn(2, 32), torch.randn(2, 32)).shape
        torch.Size([1, 14, 14, 2, 16])
    """
    arguments, reasons = prepare(
        query, key, query_weight, key_weight, query_bias=query_bias, key_bias=key_bias, scale=scale
    )
    if choose_backend(backend, reasons) == "fused":
        return OPERATOR(*arguments)
    return reference.additive_attention(*arguments)


@autocasting
def additive_weights(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    *,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weights with which `additive_attention` pools, for the same arguments.

    Returns:
        alpha, which pools the global query, and beta, which pools the global key: `[B, *grid, nh]` each, summing to 1
        over the grid.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 9, 2, 8).unbind()
        >>> alpha, beta = additive_weights(q, k, torch.randn(2, 16), torch.randn(2, 16))
        >>> alpha.shape, beta.shape
        (torch.Size([1, 9, 2]), torch.Size([1, 9, 2]))
    """
    arguments, _ = prepare(query, key, query_weight, key_weight, query_bias=query_bias, key_bias=key_bias, scale=scale)
    return reference.additive_weights(*arguments)
