"""Softmax attention in eager PyTorch: every query sees every key.

Relative position vectors (Shaw et al.) are added to keys and values per grid axis. They are never laid out per pair of
tokens: a query is multiplied with the table's 2 * k + 1 rows, and the products are looked up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    relative_key: Tensor | None
    relative_value: Tensor | None
    scale: float
    dropout_p: float


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    relative_key: Tensor | None,
    relative_value: Tensor | None,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend from every token to all tokens, `[B, *grid, nh, hd_v]`."""
    grid = query.shape[1:-2]
    weights = dropout(softmax_weights(query, key, bias, relative_key, scale), dropout_p)
    out = weights @ _tokens(value)  # [B, nh, N, hd]
    if relative_value is not None:
        out = out + _relative_values(weights, relative_value, grid)
    return out.transpose(1, 2).unflatten(1, grid)


def softmax_weights(
    query: Tensor, key: Tensor, bias: Tensor | None, relative_key: Tensor | None, scale: float
) -> Tensor:
    """Return the softmax over all keys, `[B, nh, N, M]`."""
    tokens = _tokens(query) * scale
    logits = tokens @ _tokens(key).transpose(-2, -1)
    if relative_key is not None:
        logits = logits + _relative_logits(tokens, relative_key, query.shape[1:-2])
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1)


def _tokens(tensor: Tensor) -> Tensor:
    return tensor.flatten(1, -3).transpose(1, 2)  # [B, nh, N, hd]


def _relative_logits(tokens: Tensor, table: Tensor, grid: Sequence[int]) -> Tensor:
    """Multiply every query with the vectors of its distances to the keys, summed over the axes, `[B, nh, N, N]`."""
    logits = torch.zeros((), dtype=tokens.dtype, device=tokens.device)
    for axis, rows in enumerate(table):
        index, layout = _distances(grid, axis, rows)
        products = tokens @ rows.transpose(0, 1)  # [B, nh, N, 2k+1]
        along = products.gather(-1, index.expand(*products.shape[:-1], -1))  # [B, nh, N, length]
        logits = logits + along[..., None, :, None].expand(*along.shape[:-1], *layout).flatten(-3)
    return logits


def _relative_values(weights: Tensor, table: Tensor, grid: Sequence[int]) -> Tensor:
    """Average the vectors of the distances with the attention weights, summed over the axes, `[B, nh, N, hd]`."""
    values = torch.zeros((), dtype=weights.dtype, device=weights.device)
    for axis, rows in enumerate(table):
        index, layout = _distances(grid, axis, rows)
        along = weights.unflatten(-1, layout).sum((-3, -1))  # [B, nh, N, length]
        per_row = along.new_zeros(*along.shape[:-1], len(rows)).scatter_add(-1, index.expand_as(along), along)
        values = values + per_row @ rows
    return values


def _distances(grid: Sequence[int], axis: int, rows: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Find the table's row for every query token and key coordinate along an axis.

    Returns:
        The row, clip(key - query, -k, k) + k, `[N, length]`; and the token axis as positions before, along and after
        the grid axis, so that it can be unflattened.
    """
    before, length, after = math.prod(grid[:axis]), grid[axis], math.prod(grid[axis + 1 :])
    farthest = len(rows) // 2
    coordinate = torch.arange(math.prod(grid), device=rows.device) // after % length
    offset = torch.arange(length, device=rows.device) - coordinate[:, None]
    return offset.clamp(-farthest, farthest) + farthest, (before, length, after)
