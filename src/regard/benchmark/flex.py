"""Neighborhood attention by PyTorch's FlexAttention, the way its users write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def attend_neighborhoods(
    grid: Sequence[int], kernel_size: Sequence[int], bias: Tensor | None, device: str
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function of query, key and value `[B, H, W, nh, hd]`, compiled by Inductor.

    Args:
        grid: rows and columns.
        kernel_size: of the neighborhoods.
        bias: `[nh, 2 * rows - 1, 2 * columns - 1]`, the relative bias, or None.
        device: of the tensors.
    """
    mask, add_bias = block_mask(grid, kernel_size, device), None if bias is None else score_mod(bias, grid[1])
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        first, second, third = (one.flatten(1, 2).transpose(1, 2) for one in (query, key, value))
        out = compiled(first, second, third, score_mod=add_bias, block_mask=mask)
        assert isinstance(out, Tensor)
        return out.transpose(1, 2).unflatten(1, tuple(grid))

    return attend


def block_mask(grid: Sequence[int], kernel_size: Sequence[int], device: str) -> BlockMask:
    """Return the block mask of non-causal neighborhoods, with their border rule."""
    width, tokens = grid[1], prod(grid)
    firsts = [
        (torch.arange(length, device=device) - kernel // 2).clamp(0, length - kernel)
        for length, kernel in zip(grid, kernel_size, strict=True)
    ]  # the first key of each query, per axis

    def inside(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row, column = key // width - firsts[0][query // width], key % width - firsts[1][query % width]
        return (row >= 0) & (row < kernel_size[0]) & (column >= 0) & (column < kernel_size[1])

    return create_block_mask(inside, None, None, tokens, tokens, device=device)


def score_mod(bias: Tensor, width: int) -> Callable[..., Tensor]:
    """Return the function that adds a relative bias, `[nh, 2 * rows - 1, 2 * columns - 1]`, on grids of this width."""
    rows, columns = bias.shape[1:]

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = (key // width - query // width + rows // 2).clamp(0, rows - 1)
        column = (key % width - query % width + columns // 2).clamp(0, columns - 1)
        return score + bias[head, row, column]

    return add_bias
