"""How the GPU kernels of neighborhood attention divide a call: tiles, programs, and constants of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch

from regard.gpu import launch

MAX_EXPANDED = 2**24  # elements of an expanded bias


class Tiles(NamedTuple):
    """The positions of a tile of queries and of a tile of keys, and Triton's options."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def forward_tiles(architecture: str, dtype: torch.dtype, channels: int, neighbors: int) -> Tiles:
    """Choose the tiles of the forward pass for a head dim and a number of keys per query."""
    if dtype == torch.float32:
        return Tiles(16, 16 if channels > 128 else 32, 4, 1)
    if channels > 128:
        return Tiles(64, 32, 8 if architecture == "sm_80" else 4, 2)
    if neighbors >= 1024 and architecture != "gfx942":
        return Tiles(128, 64, 8, 3 if architecture == "sm_90" else 2)
    return Tiles(64, 64, 8 if channels > 64 and architecture == "sm_80" else 4, 2)


def backward_tiles(architecture: str, dtype: torch.dtype, channels: int, neighbors: int) -> Tiles:
    """Choose the tiles of the backward passes for a head dim and a number of keys per query."""
    if dtype == torch.float32:
        return Tiles(16, 16, 8 if channels > 64 and architecture == "sm_80" else 4, 1)
    if architecture == "gfx942":
        return Tiles(32, 64 if channels <= 64 else 32, 4, 2 if channels <= 128 else 1)
    if architecture == "sm_90":
        return Tiles(64, 64 if channels <= 128 else 32, 4 if channels <= 64 else 8, 2)
    if channels > 128:
        return Tiles(16, 32, 4, 1)
    return Tiles(64, 64, 4, 2) if channels <= 64 else Tiles(32, 32, 8, 2)


class Problem(NamedTuple):
    """What a call is made of, for one direction.

    Attributes:
        is_forward: else the backward passes.
        shape: the query's.
        value_dim: the value's channels.
        has_bias: whether logits have a bias.
        dtype: of the tensors.
        architecture: of the processor, as `launch` names it.
        precision: of products of float32, as Triton calls it.
        is_large: whether offsets need 64 bits.
        kernel_size: per axis, as the options below.
        dilation: of the keys.
        stride: of the windows.
        is_causal: whether later keys are hidden.
    """

    is_forward: bool
    shape: torch.Size
    value_dim: int
    has_bias: bool
    dtype: torch.dtype
    architecture: str
    precision: str
    is_large: bool
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    stride: tuple[int, ...]
    is_causal: tuple[bool, ...]


class Plan(NamedTuple):
    """How a call is divided; all sizes per axis are three, missing axes first.

    Attributes:
        arguments: of all kernels after tensors and strides: lengths, dilations.
        query_tiles: number of tiles of queries in all batch entries, heads and groups.
        key_tiles: likewise.
        first_place: where the first tile of keys around a tile of queries starts, relative to that, for the bias'
            gradient.
        places: number of tiles of keys around a tile of queries, wherever that is.
        expanded: tiles of one head's expanded bias; 0 if it is not expanded.
        pairs: elements of a tile of pairs.
        entries: of one head's relative table.
        constants: compiled into the kernels.
    """

    arguments: tuple[tuple[int, ...], tuple[int, ...]]
    query_tiles: int
    key_tiles: int
    first_place: tuple[int, ...]
    places: tuple[int, ...]
    expanded: int
    pairs: int
    entries: int
    constants: dict[str, launch.Constant]


@lru_cache(maxsize=4096)
def plan(problem: Problem) -> Plan:
    """Divide a call."""
    channels, neighbors = max(problem.shape[-1], problem.value_dim), prod(problem.kernel_size)
    choose = forward_tiles if problem.is_forward else backward_tiles
    tiles = choose(problem.architecture, problem.dtype, channels, neighbors)
    length, dilation = launch.per_axis(problem.shape[1:-2], 1), launch.per_axis(problem.dilation, 1)
    kernel = launch.per_axis(problem.kernel_size, 1)
    members = [-(-size // step) for size, step in zip(length, dilation, strict=True)]
    tile, keys = box(tiles.queries, members), box(tiles.keys, members)
    units = problem.shape[0] * problem.shape[-2] * prod(dilation)
    first, places = _places(kernel, tile, keys, keys)
    lead, step, expanded_first, expanded_places, expanded = _expansion(problem, kernel, tile, keys)
    constants: dict[str, launch.Constant] = {
        "KERNEL": kernel,
        "STRIDE": launch.per_axis(problem.stride, 1),
        "CAUSAL": launch.per_axis(problem.is_causal, 0),
        "RANK": len(problem.kernel_size),
        "TILE": tile,
        "KEYS": keys,
        **launch.rows(problem.dtype, problem.shape[-1], problem.value_dim),
        "PRECISION": problem.precision,
        "LARGE": problem.is_large,
        "LEAD": lead,
        "PLACES": expanded_places,
        "STEP": step,
        "FIRST": expanded_first,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }
    if problem.is_forward:  # whether all queries of a tile can see all keys of another
        constants["CAN_BE_WHOLE"] = all(one >= a + b - 1 for one, a, b in zip(kernel, tile, keys, strict=True))
    entries = prod(2 * size - 1 for size in kernel)
    query_tiles = units * _tiles(members, tile)
    key_tiles = units * _tiles([size + ahead for size, ahead in zip(members, lead, strict=True)], keys)
    pairs = prod(tile) * prod(keys)
    return Plan((length, dilation), query_tiles, key_tiles, first, places, expanded, pairs, entries, constants)


def _expansion(
    problem: Problem, kernel: Sequence[int], tile: Sequence[int], keys: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Return how the bias is laid out for tiles of pairs: lead, step, first place, places per axis, and in all.

    Tiles of keys start `lead` members before an axis does, so that a tile of queries far from the borders meets few.
    """
    lead = tuple(size // 2 % side for size, side in zip(kernel, keys, strict=True))
    step = tuple(map(min, tile, keys))
    first, places = _places(kernel, tile, keys, step)
    count = prod(places)
    if problem.has_bias and problem.shape[-2] * count * prod(tile) * prod(keys) <= MAX_EXPANDED:
        return lead, step, first, places, count
    none = (0, 0, 0)
    return none, none, none, none, 0


def box(positions: int, members: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of a box of so many positions, powers of 2, as even as they can be.

    Sides that cover an axis grow no longer, but for the last one, up to the 16 rows that tensor cores need.
    """
    sides = [1] * len(members)
    while prod(sides) < positions:
        short = [axis for axis, length in enumerate(members) if sides[axis] < length]
        if not short and prod(sides) >= 16:
            break
        axis = min(reversed(short or [len(sides) - 1]), key=lambda one: sides[one])
        sides[axis] *= 2
    return tuple(sides)


def _tiles(members: Sequence[int], tile: Sequence[int]) -> int:
    return prod(-(-length // side) for length, side in zip(members, tile, strict=True))


def _places(
    kernel_size: Sequence[int], tile: Sequence[int], keys: Sequence[int], step: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the first place of a tile of keys around a tile of queries, and their number, per axis.

    Queries far from the borders see keys from kernel // 2 before them. A tile starts there, so that they meet few.
    """
    first, count = [], []
    for kernel, side, key_side, apart in zip(kernel_size, tile, keys, step, strict=True):
        before = (kernel - 1 - kernel // 2 + key_side - 1) // apart
        first.append(-(kernel // 2) - before * apart)
        count.append((side - 1 + kernel - 1 - first[-1]) // apart + 1)
    return tuple(first), tuple(count)
