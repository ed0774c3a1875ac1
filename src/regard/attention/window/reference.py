"""Window attention in eager PyTorch: every query sees the tokens of its window.

The grid is a multiple of the window. Shifted windows are made by rolling the grid. Tokens that the roll carries across
the border share a window with tokens from the other side; the two are hidden from one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator; the grid is a multiple of the window."""

    query: Tensor
    key: Tensor
    value: Tensor
    window_size: tuple[int, ...]
    shift_size: tuple[int, ...]
    bias: Tensor | None
    scale: float
    dropout_p: float


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend within windows and merge them into the grid, `[B, *grid, nh, hd_v]`."""
    weights = window_weights(query, key, window_size, shift_size, bias, scale)
    out = dropout(weights, dropout_p) @ partition(value, window_size, shift_size)
    return merge(out, window_size, shift_size)


def window_weights(
    query: Tensor,
    key: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the softmax over every window's tokens, `[B, *n_windows, nh, T, T]`."""
    queries, keys = partition(query, window_size, shift_size), partition(key, window_size, shift_size)
    logits = (queries * scale) @ keys.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias.flatten(1)[:, window_bias_index(window_size, query.device)]  # [nh, T, T]
    if any(shift_size):
        visible = same_region(query.shape[1:-2], window_size, shift_size, query.device)
        logits = logits.masked_fill(~visible, -torch.inf)
    return logits.softmax(-1)


def partition(tensor: Tensor, window_size: Sequence[int], shift_size: Sequence[int]) -> Tensor:
    """Roll a grid backwards by the shift and cut it: `[B, *grid, nh, hd]` to `[B, *n_windows, nh, T, hd]`."""
    axes = len(window_size)
    tensor = _roll(tensor, [-step for step in shift_size])
    for dim, size in zip(range(1, 2 * axes, 2), window_size, strict=True):  # the axes before dim have become two
        tensor = tensor.unflatten(dim, (tensor.shape[dim] // size, size))
    counts, places = range(1, 2 * axes, 2), range(2, 2 * axes + 1, 2)
    return tensor.permute(0, *counts, -2, *places, -1).flatten(axes + 2, -2)


def merge(windows: Tensor, window_size: Sequence[int], shift_size: Sequence[int]) -> Tensor:
    """Undo `partition`: `[B, *n_windows, nh, T, hd]` to `[B, *grid, nh, hd]`."""
    axes = len(window_size)
    tensor = windows.unflatten(-2, list(window_size))  # [B, *n_windows, nh, *window_size, hd]
    pairs = [dim for axis in range(1, axes + 1) for dim in (axis, axes + 1 + axis)]
    tensor = tensor.permute(0, *pairs, axes + 1, -1)
    for dim in range(1, axes + 1):
        tensor = tensor.flatten(dim, dim + 1)
    return _roll(tensor, shift_size)


def _roll(tensor: Tensor, steps: Sequence[int]) -> Tensor:
    """Roll a grid, which copies it, only where there is something to roll."""
    axes = [axis for axis, step in enumerate(steps, 1) if step]
    return tensor.roll([steps[axis - 1] for axis in axes], axes) if axes else tensor


def window_bias_index(window_size: Sequence[int], device: torch.device) -> Tensor:
    """Index the flattened relative table for every query and key of a window, key minus query, `[T, T]`."""
    places = torch.meshgrid(*(torch.arange(size, device=device) for size in window_size), indexing="ij")
    index = torch.zeros((), dtype=torch.int64, device=device)
    for size, place in zip(window_size, places, strict=True):
        offset = place.flatten() - place.flatten()[:, None]
        index = index * (2 * size - 1) + offset + size - 1
    return index


def same_region(
    grid: Sequence[int], window_size: Sequence[int], shift_size: Sequence[int], device: torch.device
) -> Tensor:
    """Return which pairs of a window's tokens were neighbors before the roll, `[1, *n_windows, 1, T, T]`.

    The authors distinguish three regions per axis; the first two never share a window.
    """
    region = torch.zeros((), dtype=torch.int64, device=device)
    for axis, (length, step) in enumerate(zip(grid, shift_size, strict=True)):
        carried = torch.arange(length, device=device) < step
        region = 2 * region + carried.reshape([-1 if dim == axis else 1 for dim in range(len(grid))])
    regions = partition(region[None, ..., None, None], window_size, shift_size)  # [1, *n_windows, 1, T, 1]
    return regions == regions.transpose(-2, -1)
