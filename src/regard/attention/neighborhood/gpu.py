"""The GPU kernels of neighborhood attention: those of gpu_kernels.py and gpu_bias.py, launched on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.neighborhood.reference import Arguments
from regard.gpu import launch

KERNELS = launch.Kernels("regard.attention.neighborhood.gpu_kernels")
BIAS_KERNELS = launch.Kernels("regard.attention.neighborhood.gpu_bias")
MAX_SCRATCH = 64 * 2**20  # bytes for the partial sums of the bias' gradient


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return launch.head_reasons(arguments.query, arguments.value)


class Tiles(NamedTuple):
    """How a pass is divided: positions of a tile of queries and of keys, and Triton's options."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def forward_tiles(dtype: torch.dtype, channels: int, neighbors: int) -> Tiles:
    """Choose the tiles of the forward pass for a head dim and a number of keys per query."""
    if dtype == torch.float32:
        return Tiles(32, 32, 4, 2)
    if channels > 128:
        return Tiles(64, 32, 4, 2)
    return Tiles(128, 64, 8, 3) if neighbors >= 1024 else Tiles(64, 64, 4, 2)


def backward_tiles(dtype: torch.dtype, channels: int) -> Tiles:
    """Choose the tiles of the backward passes for a head dim."""
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1) if channels > 128 else Tiles(32, 32, 4, 1)
    if channels > 128:
        return Tiles(32, 32, 4, 1)
    return Tiles(64, 64, 4 if channels <= 64 else 8, 2)


def box(positions: int, members: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of a box of so many positions, powers of 2, as even as they can be; no longer than it must."""
    sides = [1] * len(members)
    while prod(sides) < positions:
        short = [axis for axis, length in enumerate(members) if sides[axis] < length]
        if not short and prod(sides) >= 16:  # the smallest side of a product on tensor cores
            break
        axis = min(reversed(short or [len(sides) - 1]), key=lambda one: sides[one])
        sides[axis] *= 2
    return tuple(sides)


def forward(
    out: Tensor,
    largest: Tensor,
    log_total: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the output and the statistics: the largest logit and the logarithm of the sum relative to it, to base 2."""
    channels, neighbors = max(query.shape[-1], value.shape[-1]), prod(kernel_size)
    tiles = forward_tiles(query.dtype, channels, neighbors)
    problem = _Problem((query, key, value), kernel_size, dilation, stride, is_causal, tiles)
    whole = all(
        kernel >= tile + keys - 1
        for kernel, tile, keys in zip(problem.kernel, problem.tile, problem.keys, strict=True)
    )
    tensors = (query, key, value, out, largest.unsqueeze(-1))
    KERNELS.launch(
        "forward",
        problem.programs(problem.tile),
        *(query, key, value, launch.parameter(bias), out, largest, log_total),
        *map(launch.strides, tensors),
        *(problem.length, problem.dilation, query.shape[-2], scale),
        **problem.constants(),
        CAN_BE_WHOLE=whole,
    )


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
    out: Tensor,
    largest: Tensor,
    log_total: Tensor,
) -> None:
    """Fill the gradients of query, key, value and bias."""
    grad_query, grad_key, grad_value, *_, grad_bias, _ = grads
    tiles = backward_tiles(query.dtype, max(query.shape[-1], value.shape[-1]))
    problem = _Problem((query, key, value), kernel_size, dilation, stride, is_causal, tiles)
    table, delta, saved = launch.parameter(bias), torch.empty_like(largest), largest.unsqueeze(-1)
    shape = (problem.length, problem.dilation, query.shape[-2], scale)
    tensors = (query, key, value, out, grad_out, grad_query, saved)
    KERNELS.launch(
        "backward_queries",
        problem.programs(problem.tile),
        *(query, key, value, table, out, largest, log_total, grad_out, grad_query, delta),
        *map(launch.strides, tensors),
        *shape,
        **problem.constants(),
    )
    tensors = (query, key, value, grad_out, grad_key, grad_value, saved)
    KERNELS.launch(
        "backward_keys",
        problem.programs(problem.keys),
        *(query, key, value, table, largest, log_total, delta, grad_out, grad_key, grad_value),
        *map(launch.strides, tensors),
        *shape,
        **problem.constants(),
    )
    if table is not None:
        _fill_grad_bias(problem, grad_bias, (query, key, value, table, largest, log_total, delta, grad_out), scale)


def _fill_grad_bias(problem: _Problem, grad_bias: Tensor, tensors: tuple[Tensor, ...], scale: float) -> None:
    """Add up the gradients of logits by entry, for as many heads at a time as fit the scratch memory."""
    query, key, value, _, largest, *_, grad_out = tensors
    heads, tiles = query.shape[-2], problem.programs(problem.tile) // query.shape[-2]
    first, places = problem.places()
    per_head = prod(places) * prod(problem.tile) * prod(problem.keys)  # numbers of a chunk
    wanted = -(-8 * launch.multiprocessors(query) // (heads * prod(places)))
    chunks = max(1, min(tiles, wanted, MAX_SCRATCH // (4 * per_head)))
    together = max(1, min(heads, MAX_SCRATCH // (4 * per_head * chunks)))
    partial = torch.empty(together * chunks * per_head, dtype=torch.float32, device=query.device)
    strides = map(launch.strides, (query, key, value, grad_out, largest.unsqueeze(-1)))
    shape = (*strides, problem.length, problem.dilation, first, places)
    block = 16
    for head in range(0, heads, together):
        now = min(together, heads - head)
        BIAS_KERNELS.launch(
            "gradients_by_place",
            now * prod(places) * chunks,
            *(*tensors, partial, *shape, head, tiles, chunks, scale),
            **problem.constants(),
        )
        BIAS_KERNELS.launch(
            "sum_by_entry",
            now * -(-prod(2 * kernel - 1 for kernel in problem.kernel) // block),
            *(partial, grad_bias, first, places, head, chunks),
            **{"KERNEL": problem.kernel, "TILE": problem.tile, "KEYS": problem.keys, "ENTRIES": block},
        )


class _Problem:
    """The sizes of one call as kernels take them, with three axes."""

    def __init__(
        self,
        tensors: tuple[Tensor, Tensor, Tensor],
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        stride: Sequence[int],
        is_causal: Sequence[bool],
        tiles: Tiles,
    ) -> None:
        query, _, value = tensors
        self.rank, self.tiles = len(kernel_size), tiles
        self.units, self.dims = query.shape[0] * query.shape[-2], (query.shape[-1], value.shape[-1])
        self.precision = launch.precision(query)
        self.length, self.dilation = launch.per_axis(query.shape[1:-2], 1), launch.per_axis(dilation, 1)
        self.kernel, self.stride = launch.per_axis(kernel_size, 1), launch.per_axis(stride, 1)
        self.causal = launch.per_axis(is_causal, 0)
        self.members = [-(-length // step) for length, step in zip(self.length, self.dilation, strict=True)]
        self.large = launch.is_large(*tensors)
        self.tile, self.keys = box(tiles.queries, self.members), box(tiles.keys, self.members)

    def programs(self, tile: Sequence[int]) -> int:
        """Return the number of tiles of this size in all heads, groups and batch entries."""
        per_group = prod(-(-length // side) for length, side in zip(self.members, tile, strict=True))
        return self.units * prod(self.dilation) * per_group

    def places(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return where the tiles of keys around a tile of queries start, relative to it, and their number per axis.

        Queries far from the borders see keys from kernel // 2 before them; a tile starts there, so that few are met.
        """
        first, count = [], []
        for kernel, tile, keys in zip(self.kernel, self.tile, self.keys, strict=True):
            before = -(-(kernel - 1 - kernel // 2) // keys)
            first.append(-(kernel // 2) - before * keys)
            count.append((tile - 1 + kernel - 1 - first[-1]) // keys + 1)
        return tuple(first), tuple(count)

    def constants(self) -> dict[str, launch.Constant]:
        """Return what is compiled into the kernels."""
        width, rest = launch.split_channels(self.dims[0])
        value_width, value_rest = launch.split_channels(self.dims[1])
        return {
            "KERNEL": self.kernel,
            "STRIDE": self.stride,
            "CAUSAL": self.causal,
            "RANK": self.rank,
            "TILE": self.tile,
            "KEYS": self.keys,
            "DIM": self.dims[0],
            "WIDTH": width,
            "REST": rest,
            "VALUE_DIM": self.dims[1],
            "VALUE_WIDTH": value_width,
            "VALUE_REST": value_rest,
            "PRECISION": self.precision,
            "LARGE": self.large,
            "num_warps": self.tiles.num_warps,
            "num_stages": self.tiles.num_stages,
        }


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)
