"""Softmax attention: every query sees every key, with an additive bias and relative position vectors."""

from __future__ import annotations

from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.softmax import reference, sdpa
from regard.attention.softmax.arguments import prepare


@overridable
@autocasting
def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    relative_key: Tensor | None = None,
    relative_value: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: Backend = None,
) -> Tensor:
    r"""Attend from every query to every key.

    $$ y_i = \sum_j \mathrm{softmax}_j(s\, q_i \cdot (k_j + a_{ij}) + b_{ij})\, (v_j + c_{ij}) $$

    The relative vectors a and c are sums over the grid axes of table rows, chosen by the clipped distance from query
    to key. On a grid of one axis this is Shaw's definition; on more it is its decomposition per axis.

    Args:
        query: `[B, *grid, nh, hd]`, a grid of one, two or three axes, N positions; may be a strided view.
        key: `[B, *grid, nh, hd]`, M positions; the grid may differ from query's, also in its number of axes.
        value: `[B, *grid, nh, hd_v]`, on key's grid.
        bias: added to the scaled logits. `[B, nh, N, M]`, or `[N, M]` and more axes that broadcast to it, with N and M
            in row-major order. -inf hides a key; at least one key must stay visible to every query.
        relative_key: the table of a, `[axes, 2 * k + 1, hd]`, read at row clip(key - query, -k, k) + k of every grid
            axis. Query and key need the same grid.
        relative_value: the table of c, `[axes, 2 * k + 1, hd_v]`; its k may differ.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping an attention weight.
        backend: None uses PyTorch's `scaled_dot_product_attention` if it supports the call, else the reference. "fused"
            raises an error if it does not, and "reference" never uses it.

    Returns:
        `[B, *grid, nh, hd_v]` on query's grid.

    Raises:
        ShapeError: sizes that do not fit together.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` with relative vectors.

    Cost:
        2 * B * nh * N * M * (hd + hd_v) FLOPs. The reference stores B * nh * N * M weights; a relative table adds
        2 * B * nh * N * (2 * k + 1) * hd FLOPs per axis and no tensor of size N * N * hd.

    Precision:
        The reference computes in the inputs' dtype; the fused kernels accumulate in float32 or better.

    Source:
        Attention Is All You Need (arXiv 1706.03762, eq. 1); relative vectors: Shaw et al. (1803.02155, eq. 3-5).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 14, 14, 2, 16).unbind()
        >>> softmax_attention(q, k, v).shape
        torch.Size([1, 14, 14, 2, 16])
        >>> class_token = torch.randn(1, 1, 2, 16)
        >>> softmax_attention(class_token, k, v).shape
        torch.Size([1, 1, 2, 16])
    """
    arguments, reasons = prepare(
        query,
        key,
        value,
        bias=bias,
        relative_key=relative_key,
        relative_value=relative_value,
        scale=scale,
        dropout_p=dropout_p,
    )
    if choose_backend(backend, reasons) == "fused":
        return sdpa.softmax_attention(query, key, value, bias, arguments.scale, dropout_p)
    return reference.softmax_attention(*arguments)


@autocasting
def softmax_weights(
    query: Tensor,
    key: Tensor,
    *,
    bias: Tensor | None = None,
    relative_key: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the attention weights that `softmax_attention` applies, for the same arguments.

    Returns:
        `[B, nh, N, M]`, positions in row-major order of their grids; each row sums to 1.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 3, 3, 2, 8).unbind()
        >>> softmax_weights(q, k).shape
        torch.Size([1, 2, 9, 9])
    """
    arguments, _ = prepare(query, key, key, bias=bias, relative_key=relative_key, scale=scale)
    return reference.softmax_weights(query, key, bias, relative_key, arguments.scale)
