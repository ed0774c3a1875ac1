"""Pad and crop grids, the axes after the batch: `[B, *grid, ...]`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def pad_grid(tensor: Tensor, grid: Sequence[int]) -> Tensor:
    """Append zeros to the grid axes up to the lengths of `grid`, which are at least the tensor's.

    A dynamic size may need padding or not, so that an exported program always pads and crops.
    """
    missing = [length - own for length, own in zip(grid, tensor.shape[1:], strict=False)]
    if all(isinstance(amount, int) and amount == 0 for amount in missing):
        return tensor
    trailing = tensor.ndim - 1 - len(missing)
    return pad(tensor, [0, 0] * trailing + [side for amount in reversed(missing) for side in (0, amount)])


def crop_grid(tensor: Tensor, grid: Sequence[int]) -> Tensor:
    """Cut the grid axes back to the lengths of `grid`."""
    for axis, length in enumerate(grid, start=1):
        if isinstance(tensor.shape[axis], torch.SymInt):  # a copy, whose layout is the same for any size
            tensor = tensor.index_select(axis, torch.arange(length, device=tensor.device))
        elif tensor.shape[axis] != length:
            tensor = tensor.narrow(axis, 0, length)
    return tensor


def at_least(grid: Sequence[int], extent: Sequence[int]) -> list[int]:
    """Enlarge a grid's lengths to those of `extent`."""
    grid = [int(length) if isinstance(length, Tensor) else length for length in grid]  # of torch.jit.trace
    return [torch.sym_max(length, least) for length, least in zip(grid, extent, strict=True)]  # type: ignore[misc]


def whole_windows(grid: Sequence[int], window_size: Sequence[int]) -> list[int]:
    """Round a grid up to whole windows."""
    return [-(-length // size) * size for length, size in zip(grid, window_size, strict=True)]


def positions_on(grid: Sequence[int], padded: Sequence[int]) -> Tensor:
    """Number the positions of a padded grid by their place in the grid itself, row-major; -1 for the padding.

    Example:
        >>> positions_on((2, 2), (2, 3)).tolist()
        [0, 1, -1, 2, 3, -1]
    """
    positions = torch.full(tuple(padded), -1)
    positions[tuple(slice(length) for length in grid)] = torch.arange(math.prod(grid)).reshape(tuple(grid))
    return positions.flatten()
