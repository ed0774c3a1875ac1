"""Growing and cutting grids, which follow the batch: `[B, *grid, ...]`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad


def pad_grid(tensor: Tensor, extent: Sequence[int]) -> Tensor:
    """Append zeros to the grid axes up to at least `extent`, one length per axis."""
    missing = [max(least - length, 0) for length, least in zip(tensor.shape[1:], extent, strict=False)]
    if not any(missing):
        return tensor
    trailing = tensor.ndim - 1 - len(missing)
    return pad(tensor, [0, 0] * trailing + [side for amount in reversed(missing) for side in (0, amount)])


def crop_grid(tensor: Tensor, grid: Sequence[int]) -> Tensor:
    """Cut the grid axes back to `grid`."""
    for axis, length in enumerate(grid, start=1):
        tensor = tensor.narrow(axis, 0, length) if tensor.shape[axis] != length else tensor
    return tensor


def whole_windows(grid: Sequence[int], window_size: Sequence[int]) -> list[int]:
    """Round a grid up to whole windows."""
    return [-(-length // size) * size for length, size in zip(grid, window_size, strict=True)]
