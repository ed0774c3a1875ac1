"""Neighborhood attention: every query sees its K nearest tokens per axis, in 1-D, 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.grid import at_least, crop_grid, positions_on
from regard.attention.neighborhood import reference
from regard.attention.neighborhood.arguments import check_window, prepare
from regard.attention.neighborhood.op import OPERATOR


@overridable
@autocasting
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

    A window that would leave the grid is shifted inward, so every query has exactly K = prod(kernel_size) keys and
    nothing is masked. Only a causal axis masks: there, a query sees keys at or before it, at most `kernel_size`.

    Args:
        query: `[B, *grid, nh, hd]`, a grid of one, two or three axes; may be a strided view.
        key: `[B, *grid, nh, hd]`.
        value: `[B, *grid, nh, hd_v]`.
        kernel_size: keys per axis, odd or even; an even one reaches one further to the left.
        dilation: distance between neighboring keys. Positions with equal remainders form a group, and groups may
            differ in length.
        stride: this many consecutive queries of a group share one window, at most `kernel_size`.
        is_causal: whether keys after the query are hidden, per axis.
        bias: relative table `[nh, 2 * k - 1, ...]`, one axis per grid axis, indexed by key minus query (in units of
            dilation) plus k - 1. Added to the scaled logits.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping an attention weight.
        small_grid: what to do if kernel_size * dilation exceeds the grid: raise an error, or append zeros to query, key
            and value on the right and at the bottom, unmasked. `NeighborhoodAttention2d` pads before its projection
            instead, as the published NAT checkpoints expect.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        `[B, *grid, nh, hd_v]`.

    Raises:
        ShapeError: sizes that do not fit together, or a grid smaller than the window.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        2 * B * nh * N * K * (hd + hd_v) FLOPs for N grid positions. The reference stores gathered keys and values of
        B * nh * N * K * (hd + hd_v) elements. The fused kernels save the output and 2 * B * nh * N statistics for the
        backward pass. On a CPU they also need memory for some rows of keys per thread, and 2 * B * nh * N numbers
        during the backward pass.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs. In the kernel,
        NaNs and infinities may also reach the results of queries next to those that see them; on a GPU, of all queries
        in the same tile, up to 128. A pair that a causal axis excludes has no part in the kernel's gradients; in the
        reference's, a weight of 0 times an infinity is NaN.

    Source:
        NAT (arXiv 2204.07143, eq. 1-3), DiNAT (2209.15001), causal FNA (2403.04690), stride: GNA (2504.16922); windows
        and bias as in SHI-Labs/NATTEN.

    Example:
        >>> q, k, v = torch.randn(3, 1, 14, 14, 2, 16).unbind()
        >>> neighborhood_attention(q, k, v, kernel_size=7, dilation=(1, 2)).shape
        torch.Size([1, 14, 14, 2, 16])
    """
    arguments, reasons = prepare(
        query,
        key,
        value,
        kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
        bias=bias,
        scale=scale,
        dropout_p=dropout_p,
        small_grid=small_grid,
    )
    if choose_backend(backend, reasons) == "fused":
        out = OPERATOR(*arguments[:-1])
    else:
        out = reference.neighborhood_attention(*arguments)
    return crop_grid(out, query.shape[1:-2]) if small_grid == "pad" else out


@autocasting
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
    arguments, _ = prepare(
        query,
        key,
        key,
        kernel_size,
        dilation=dilation,
        stride=stride,
        is_causal=is_causal,
        bias=bias,
        scale=scale,
        small_grid=small_grid,
    )
    weights = reference.neighborhood_weights(arguments.query, arguments.key, *arguments[3:-1])
    return crop_grid(weights, query.shape[1:-2]) if small_grid == "pad" else weights


def neighborhood_bias_index(
    kernel_size: int | Sequence[int],
    grid: Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """Return the index into a flattened relative bias table for every query and neighbor.

    `table.flatten(1)[:, index]` is the bias of `neighborhood_attention`, `[nh, *grid, K]`. The index grows with key
    minus query: near the upper border, where all keys lie below the query, it is large. Widely copied code has it the
    wrong way round there (and right in the interior, where it goes unnoticed).

    Returns:
        int64, `[*grid, K]`, K = prod(kernel_size) in row-major order of the window.

    Example: the first query of five sees itself and two keys to its right, offsets 0, 1, 2 of -2 ... 2.
        >>> neighborhood_bias_index(3, (5,))[0].tolist()
        [2, 3, 4]
    """
    window = check_window(grid, kernel_size, dilation, stride, is_causal, "error")
    return reference.neighborhood_bias_index(reference.window_axes(*window), grid, torch.device("cpu"))


def neighborhood_keys(
    kernel_size: int | Sequence[int],
    grid: Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    small_grid: Literal["error", "pad"] = "error",
) -> Tensor:
    """Return which positions every query sees, in the order of `neighborhood_weights`.

    Returns:
        int64, `[*grid, K]`, positions in row-major order of the grid; -1 for those that `small_grid="pad"` has added.
        Keys that a causal axis hides repeat others; they weigh 0.

    Example: the borders of a line of five.
        >>> neighborhood_keys(3, (5,)).tolist()
        [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    """
    window = check_window(grid, kernel_size, dilation, stride, is_causal, small_grid)
    padded = at_least(grid, window.extent) if small_grid == "pad" else grid
    keys = reference.neighborhood_keys(reference.window_axes(*window), padded, torch.device("cpu"))
    return positions_on(grid, padded)[keys[tuple(slice(length) for length in grid)]]
