"""How the programs of the pooled mechanisms share tokens: the host's side of triton_pooling.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.gpu import launch

TILE = 2048  # elements of a tile: 16 per thread
MAX_ROW = 8192  # elements of a token in a tile, padding included
MAX_PARTS = 64  # every program of the next pass adds up the results of all parts


class Shares(NamedTuple):
    """How programs share the tokens of groups, such as batch entries.

    Attributes:
        shape: of a tile: tokens, heads, channels of a head, and the powers of 2 that cover heads and channels.
        parts: programs per group.
        tiles: per program.
        warps: per program.
    """

    shape: tuple[int, int, int, int, int]
    parts: int
    tiles: int
    warps: int


def reasons(tensor: Tensor, heads: int, dim: int) -> list[str]:
    """Return the reasons why no kernel can pool tokens with so many heads and channels; empty if one can."""
    found = launch.reasons(tensor)
    row = _power_of_2(heads) * _power_of_2(dim)
    if row > MAX_ROW:
        found.append(f"a token has {row} channels with padding, more than {MAX_ROW}")
    return found


def share(tensor: Tensor, groups: int, tokens: int, heads: int, dim: int) -> Shares:
    """Share the tokens of `groups` groups among programs, enough of them for the tensor's device."""
    wide = _power_of_2(heads), _power_of_2(dim)
    row = wide[0] * wide[1]
    rows = min(max(TILE // row, 1), _power_of_2(tokens))
    tiles = -(-tokens // rows)
    parts = min(-(-8 * launch.multiprocessors(tensor) // groups), tiles, MAX_PARTS)
    tiles = -(-tiles // parts)
    return Shares((rows, heads, dim, *wide), -(-tokens // (rows * tiles)), tiles, max(4, row // 512))


def scratch(tensor: Tensor, *shape: int) -> Tensor:
    """Return uninitialized float32 memory on a tensor's device."""
    return torch.empty(shape, dtype=torch.float32, device=tensor.device)


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()
