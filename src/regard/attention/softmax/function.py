"""Softmax attention: every query sees every key, with an additive bias and relative position vectors."""

from __future__ import annotations

import math

from torch import Tensor

from regard.attention import checks
from regard.attention._mechanism import Backend, choose_backend
from regard.attention.softmax import reference, sdpa
from regard.errors import ShapeError


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
        bias: added to the scaled logits; `[B, nh, N, M]` or what broadcasts to it from `[N, M]` on, N and M in
            row-major order. -inf hides a key; every query needs one that it sees.
        relative_key: a's table, `[axes, 2 * k + 1, hd]`: row clip(key - query, -k, k) + k of every grid axis. Query and
            key need the same grid.
        relative_value: c's table, `[axes, 2 * k + 1, hd_v]`; its k may be another one.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping an attention weight.
        backend: None takes PyTorch's `scaled_dot_product_attention` where it can serve, else the reference; "fused" or
            "reference" insist.

    Returns:
        `[B, *grid, nh, hd_v]` on query's grid.

    Raises:
        ShapeError: sizes that do not fit together.
        TypeError: integer tensors, mixed dtypes or devices.
        UnsupportedError: `backend="fused"` with relative vectors.

    Cost:
        2 * B * nh * N * M * (hd + hd_v) FLOPs. The reference holds B * nh * N * M weights; a relative table adds
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
    _check(query, key, value, bias, relative_key, relative_value, dropout_p)
    scale = checks.scale_of(query, scale)
    if choose_backend(backend, _reasons(relative_key, relative_value)) == "fused":
        return sdpa.softmax_attention(query, key, value, bias, scale, dropout_p)
    return reference.softmax_attention(query, key, value, bias, relative_key, relative_value, scale, dropout_p)


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
    _check(query, key, key, bias, relative_key, None, 0.0)
    scale = checks.scale_of(query, scale)
    return reference.softmax_weights(query, key, bias, relative_key, scale)


def unsupported_reasons(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    relative_key: Tensor | None = None,
    relative_value: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> list[str]:
    """Say why `softmax_attention` has no fused kernel for these arguments; empty if it has one."""
    _check(query, key, value, bias, relative_key, relative_value, dropout_p)
    return _reasons(relative_key, relative_value)


def _reasons(relative_key: Tensor | None, relative_value: Tensor | None) -> list[str]:
    tables = {"relative_key": relative_key, "relative_value": relative_value}
    return [f"{name} is given, and the fused kernels take none" for name, table in tables.items() if table is not None]


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    relative_key: Tensor | None,
    relative_value: Tensor | None,
    dropout_p: float,
) -> None:
    tensors = {"query": query, "key": key, "value": value, "bias": bias}
    checks.check_tensors({**tensors, "relative_key": relative_key, "relative_value": relative_value})
    checks.check_query_key(query, key)
    checks.check_shape("value", value, (*key.shape[:-1], None), "must equal key's shape but for its last axis")
    checks.check_probability("dropout_p", dropout_p)
    if bias is not None:
        batch, *queries, heads, _ = query.shape
        _check_bias(bias, (batch, heads, math.prod(queries), math.prod(key.shape[1:-2])))
    if relative_key is not None:
        _check_relative("relative_key", relative_key, query, key, query.shape[-1])
    if relative_value is not None:
        _check_relative("relative_value", relative_value, query, key, value.shape[-1])


def _check_bias(bias: Tensor, target: tuple[int, int, int, int]) -> None:
    fits = zip(reversed(bias.shape), reversed(target), strict=False)
    if bias.ndim not in (2, 3, 4) or any(got not in (1, want) for got, want in fits):
        raise ShapeError(
            f"bias must broadcast to [B, nh, N, M] = {checks.shape(target)}, got {checks.shape(bias)}; "
            "every axis is that size or 1, and B and nh may be left out"
        )


def _check_relative(name: str, table: Tensor, query: Tensor, key: Tensor, width: int) -> None:
    grid, keys = query.shape[1:-2], key.shape[1:-2]
    if grid != keys:
        raise ShapeError(
            f"{name} needs query and key on the same grid, got {checks.shape(grid)} and {checks.shape(keys)}; "
            "leave it out"
        )
    checks.check_shape(name, table, (len(grid), None, width), "is [grid axes, 2 * k + 1, head dim]")
    if table.shape[1] % 2 == 0:
        raise ShapeError(f"{name} must have an odd number 2 * k + 1 of rows, got {table.shape[1]}; add or drop one")
