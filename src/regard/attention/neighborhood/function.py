"""Neighborhood attention: every query sees its K nearest tokens per axis, in 1-D, 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from regard.attention import checks
from regard.attention._mechanism import Backend, choose_backend
from regard.attention._native import calls
from regard.attention.grid import crop_grid, pad_grid
from regard.attention.neighborhood import op, reference
from regard.attention.neighborhood.reference import Axis
from regard.errors import ShapeError


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    small_grid: Literal["error", "pad"] = "error",
    backend: Backend = None,
) -> Tensor:
    r"""Attend from every grid position to its nearest neighbors along each axis.

    $$ y_i = \sum_{j \in \mathcal{N}(i)} \mathrm{softmax}_j(s\, q_i \cdot k_j + b_{j - i})\, v_j $$

    A window that would leave the grid is shifted inwards: every query has exactly K = prod(kernel_size) keys, and
    nothing is masked. Only a causal axis masks: there a query sees keys at or before it, at most `kernel_size` of them.

    Args:
        query: `[B, *grid, nh, hd]`, a grid of one, two or three axes; may be a strided view.
        key: `[B, *grid, nh, hd]`.
        value: `[B, *grid, nh, hd_v]`.
        kernel_size: keys per axis, odd or even; an even one reaches one further to the left.
        dilation: distance between neighboring keys. Positions with equal remainders form a group of their own, and
            the groups may have unequal lengths.
        stride: runs of this many members of a group share the window of their leader, at most `kernel_size`.
        is_causal: whether keys after the query are hidden, per axis.
        bias: relative table `[nh, 2 * k - 1, ...]`, one axis per grid axis, indexed by key minus query (in units of
            dilation) plus k - 1. Added to the scaled logits.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping an attention weight.
        small_grid: what to do where kernel_size * dilation exceeds the grid: raise, or append zeros to query, key and
            value on the right and at the bottom, unmasked. `NeighborhoodAttention2d` pads before its projection
            instead, as the published NAT checkpoints expect.
        backend: None takes the fused kernel where one can serve, else the reference; "fused" or "reference" insist.

    Returns:
        `[B, *grid, nh, hd_v]`.

    Raises:
        ShapeError: sizes that do not fit together, or a grid smaller than the window.
        TypeError: integer tensors, mixed dtypes or devices.
        UnsupportedError: `backend="fused"` and no fused kernel serves the call.

    Cost:
        2 * B * nh * N * K * (hd + hd_v) FLOPs for N grid positions. The reference holds gathered keys and values of
        B * nh * N * K * (hd + hd_v) elements. The fused kernel holds a cache's worth of rows per thread, and
        for the backward pass B * nh * N log-sum-exps, and twice as many numbers while that runs.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs. NaNs and infinities
        may also reach the kernel's results for neighbors of the queries that see them.

    Source:
        NAT (arXiv 2204.07143, eq. 1-3), DiNAT (2209.15001), causal FNA (2403.04690), stride: GNA (2504.16922); windows
        and bias as in SHI-Labs/NATTEN.

    Example:
        >>> q, k, v = torch.randn(3, 1, 14, 14, 2, 16).unbind()
        >>> neighborhood_attention(q, k, v, kernel_size=7, dilation=(1, 2)).shape
        torch.Size([1, 14, 14, 2, 16])
    """
    axes = _check(query, key, value, kernel_size, dilation, stride, is_causal, bias, dropout_p, small_grid)
    chosen = choose_backend(backend, calls.unsupported_reasons(query, value, dropout_p))
    scale = checks.scale_of(query, scale)
    grid = query.shape[1:-2]
    query, key, value = (pad_grid(tensor, [axis.extent for axis in axes]) for tensor in (query, key, value))
    if chosen == "fused":
        out = op.neighborhood_attention(query, key, value, axes, bias, scale)
    else:
        out = reference.neighborhood_attention(query, key, value, axes, bias, scale, dropout_p)
    return crop_grid(out, grid)


def neighborhood_weights(
    query: Tensor,
    key: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    small_grid: Literal["error", "pad"] = "error",
) -> Tensor:
    """Return the attention weights that `neighborhood_attention` applies, for the same arguments.

    Returns:
        `[B, *grid, nh, K]`, K = prod(kernel_size) in row-major order of the window; each row sums to 1.

    Example:
        >>> q, k = torch.randn(2, 1, 9, 2, 8).unbind()
        >>> neighborhood_weights(q, k, kernel_size=3).shape
        torch.Size([1, 9, 2, 3])
    """
    axes = _check(query, key, key, kernel_size, dilation, stride, is_causal, bias, 0.0, small_grid)
    scale = checks.scale_of(query, scale)
    grid = query.shape[1:-2]
    query, key = (pad_grid(tensor, [axis.extent for axis in axes]) for tensor in (query, key))
    return crop_grid(reference.neighborhood_weights(query, key, axes, bias, scale), grid)


def neighborhood_bias_index(
    kernel_size: int | Sequence[int],
    grid: Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """Index a flattened relative bias table for every query and neighbor.

    `table.flatten(1)[:, index]` is the bias of `neighborhood_attention`, `[nh, *grid, K]`. The index grows with key
    minus query: near the upper border, where all keys lie below the query, it is large. Widely copied code has it the
    wrong way round there (and right in the interior, where it goes unnoticed).

    Returns:
        int64, `[*grid, K]`, K = prod(kernel_size) in row-major order of the window.

    Example: the first query of five sees itself and two keys to its right, offsets 0, 1, 2 of -2 ... 2.
        >>> neighborhood_bias_index(3, (5,))[0].tolist()
        [2, 3, 4]
    """
    axes = check_window(grid, kernel_size, dilation, stride, is_causal, "error")
    return reference.neighborhood_bias_index(axes, grid, torch.device("cpu"))


def unsupported_reasons(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    small_grid: Literal["error", "pad"] = "error",
) -> list[str]:
    """Say why `neighborhood_attention` has no fused kernel for these arguments; empty if it has one."""
    _check(query, key, value, kernel_size, dilation, stride, is_causal, bias, dropout_p, small_grid)
    return calls.unsupported_reasons(query, value, dropout_p)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    bias: Tensor | None,
    dropout_p: float,
    small_grid: str,
) -> tuple[Axis, ...]:
    checks.check_tensors({"query": query, "key": key, "value": value, "bias": bias})
    checks.check_grid_tensor("query", query, (4, 5, 6), checks.LAYOUT)
    checks.check_probability("dropout_p", dropout_p)
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    checks.check_shape("value", value, (*query.shape[:-1], None), "must equal query's shape but for its last axis")
    axes = check_window(query.shape[1:-2], kernel_size, dilation, stride, is_causal, small_grid)
    if bias is not None:
        table = (query.shape[-2], *(2 * axis.kernel - 1 for axis in axes))
        checks.check_shape("bias", bias, table, "is [nh, 2 * kernel_size - 1 per axis]")
    return axes


def check_window(
    grid: Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    small_grid: str,
) -> tuple[Axis, ...]:
    """Check the window's options against the grid and gather them per axis."""
    count = len(checks.check_grid(grid))
    checks.check_word("small_grid", small_grid, ("error", "pad"))
    options = zip(
        checks.per_axis("kernel_size", kernel_size, count, minimum=1),
        checks.per_axis("dilation", dilation, count, minimum=1),
        checks.per_axis("stride", stride, count, minimum=1),
        checks.flags_per_axis("is_causal", is_causal, count),
        strict=True,
    )
    axes = tuple(Axis(kernel, step, run, causal) for kernel, step, run, causal in options)
    if any(axis.stride > axis.kernel for axis in axes):
        raise ShapeError(f"stride must be at most kernel_size, got {stride=} and {kernel_size=}")
    if small_grid == "error" and any(axis.extent > length for axis, length in zip(axes, grid, strict=True)):
        raise ShapeError(
            f"kernel_size * dilation must fit the grid {tuple(grid)}, got {kernel_size=} and {dilation=}; "
            "make them smaller, or pass small_grid='pad'"
        )
    return axes
