"""Relative position encoding: which entry of a bias table belongs to which pair of query and key."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.attention import neighborhood_bias_index, window_bias_index
from regard.explain.record import recorded


@torch.no_grad()
def bias_tables(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return a model's learned relative bias tables, `[nh, 2 * k - 1, ...]` per layer, indexed by key minus query.

    Args:
        model: as in `attention_maps`; tables of any origin come in the same order.
        images: `[B, C, H, W]`; which values they have does not matter.

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> bias_tables(model, torch.randn(1, 3, 32, 32))["levels.0.blocks.0.attn"].shape
        torch.Size([2, 5, 5])
    """
    calls = recorded(model, images)
    return {
        call.layer: call.arguments["bias"].detach()
        for call in calls
        if call.mechanism.name in ("neighborhood", "window") and call.arguments["bias"] is not None
    }


def swin_index(window_size: Sequence[int]) -> Tensor:
    """Return Swin's index of the flattened table for every query and key of a window, query minus key, `[T, T]`.

    Example: the first of three tokens.
        >>> swin_index((3,))[0].tolist()
        [2, 1, 0]
    """
    return window_bias_index(window_size).T


def neighborhood_index(kernel_size: int, grid: Sequence[int]) -> Tensor:
    """Return NAT's index for every query and neighbor, key minus query, `[*grid, K]`: see `neighborhood_bias_index`."""
    return neighborhood_bias_index(kernel_size, grid)


def reversed_index(kernel_size: int, grid: Sequence[int]) -> Tensor:
    """Return the wrong index that is widely copied for NAT: right in the interior, reversed at the borders.

    There the first neighbor's entry rises with the query's distance from the lower border's window instead of falling.

    Example: with three neighbors, the first of five queries should read entries 2 to 4.
        >>> reversed_index(3, (5,))[0].tolist(), neighborhood_index(3, (5,))[0].tolist()
        ([0, 1, 2], [2, 3, 4])
    """
    index = torch.zeros((), dtype=torch.int64)
    for axis, length in enumerate(grid):
        right = neighborhood_bias_index(kernel_size, (length,))  # [L, k]
        first = kernel_size - 1 - right[:, :1]
        along = first + torch.arange(kernel_size)
        layout = [1] * (2 * len(grid))
        layout[axis], layout[len(grid) + axis] = along.shape
        index = index * (2 * kernel_size - 1) + along.reshape(layout)
    return index.flatten(len(grid))
