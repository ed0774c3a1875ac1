"""The GPU kernels of window attention: those of triton_kernels.py and triton_tiled.py, launched on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.window.reference import Arguments
from regard.gpu import launch

KERNELS = launch.Kernels("regard.attention.window.triton_kernels")
TILED_KERNELS = launch.Kernels("regard.attention.window.triton_tiled")
MAX_SCRATCH = 64 * 2**20  # bytes for the partial sums of the bias' gradient


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return launch.head_reasons(arguments.query, arguments.value)


class Tiles(NamedTuple):
    """How a pass is divided: tokens of a tile of queries and of keys, and Triton's options."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def forward_tiles(architecture: str, dtype: torch.dtype, channels: int, tokens: int) -> Tiles:
    """Choose the tiles of the forward pass for a head dim and a window; one tile holds a small window."""
    if dtype == torch.float32:
        if tokens <= 32 and channels <= 32:
            return _whole_window(tokens, 16)
        if channels > 128:
            return Tiles(16, 16, 8, 2)
        return Tiles(32 if channels <= 64 and architecture != "sm_80" else 16, 32, 4, 2)
    if tokens <= 64 and channels <= 128:
        return _whole_window(tokens, 8 if channels > 64 and architecture == "sm_80" else 16)
    if channels > 128:
        return Tiles(64 if architecture == "sm_90" else 32, 32, 8, 2)
    return Tiles(64, _keys(tokens), 4, 2)


def backward_tiles(architecture: str, dtype: torch.dtype, channels: int, tokens: int) -> Tiles:
    """Choose the tiles of the backward passes for a head dim and a window; one tile holds a small window."""
    if dtype == torch.float32:
        return Tiles(16, 32, 4, 1) if channels <= 64 else Tiles(16, 16, 4 if architecture == "gfx942" else 8, 1)
    needs_warps = architecture == "sm_80"  # for enough registers
    if channels > 128:
        return Tiles(32, 16, 4 if architecture == "gfx942" else 8, 1)
    if channels > 64 and architecture == "gfx942":
        return Tiles(32, 32, 4, 2)
    if tokens <= 64 and channels <= 128:
        return _whole_window(tokens, 8 if channels > 32 or needs_warps else 16)
    if needs_warps and channels > 32:
        return Tiles(32, 64, 4 if channels <= 64 else 8, 2)
    return Tiles(64, _keys(tokens), 8 if channels > 64 or needs_warps else 4, 2)


def _whole_window(tokens: int, tokens_per_warp: int) -> Tiles:
    tile = max(16, _power_of_2(tokens))
    return Tiles(tile, tile, tile // tokens_per_warp, 2)


def _power_of_2(number: int) -> int:
    """Return the smallest power of 2 that is not less."""
    return 1 << (number - 1).bit_length()


def _keys(tokens: int) -> int:
    """Return a tile's number of keys: 64, or 32 where that pads the window clearly less."""
    return 32 if -(-tokens // 32) * 32 < 0.9 * (-(-tokens // 64) * 64) else 64


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`."""
    problem = _Problem(query, value, window_size, shift_size)
    tiles = forward_tiles(problem.architecture, query.dtype, max(problem.dims), problem.tokens)
    tensors = (query, key, value, out)
    arguments = (query, key, value, launch.parameter(bias), out, *map(launch.strides, tensors), *problem.shape)
    if tiles.queries >= problem.tokens:
        chunks = problem.chunks(4)
        programs = chunks * problem.heads
        KERNELS.launch("forward", programs, *arguments, problem.windows, chunks, scale, **problem.constants(tiles))
    else:
        TILED_KERNELS.launch("forward", problem.programs(tiles.queries), *arguments, scale, **problem.constants(tiles))


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients of query, key, value and bias."""
    grad_query, grad_key, grad_value, _, _, grad_bias, _ = grads
    problem = _Problem(query, value, window_size, shift_size)
    inputs = (query, key, value, launch.parameter(bias), grad_out)
    outputs = (grad_query, grad_key, grad_value)
    tiles = backward_tiles(problem.architecture, query.dtype, max(problem.dims), problem.tokens)
    run = _single_backward if tiles.queries >= problem.tokens else _tiled_backward
    run(problem, tiles, inputs, outputs, grad_bias, scale)


class _Problem:
    """The sizes of one call as kernels take them, with three axes."""

    def __init__(self, query: Tensor, value: Tensor, window_size: Sequence[int], shift_size: Sequence[int]) -> None:
        self.heads, self.dims = query.shape[-2], (query.shape[-1], value.shape[-1])
        self.length, self.window = launch.per_axis(query.shape[1:-2], 1), launch.per_axis(window_size, 1)
        self.shift = launch.per_axis(shift_size, 0)
        self.tokens = prod(self.window)
        self.windows = query.shape[0] * prod(self.length) // self.tokens
        self.shape = (self.length, self.shift, self.heads)
        self.dtype, self.precision = query.dtype, launch.precision(query)
        self.architecture, self.multiprocessors = launch.architecture(query), launch.multiprocessors(query)

    def chunks(self, programs: int) -> int:
        """Return the number of chunks of windows, given how many programs a multiprocessor runs."""
        wanted = max(1, min(self.windows, programs * self.multiprocessors // self.heads))
        turns = -(-self.windows // wanted)
        return -(-self.windows // turns)

    def programs(self, tile: int) -> int:
        """Return the number of tiles in all windows and heads."""
        return self.windows * self.heads * -(-self.tokens // tile)

    def constants(self, tiles: Tiles) -> dict[str, launch.Constant]:
        """Return what is compiled into the kernels."""
        is_single = tiles.queries >= self.tokens
        own = {"TILE": tiles.queries} if is_single else {"QUERIES": tiles.queries, "KEYS": tiles.keys}
        return {
            "WINDOW": self.window,
            "SHIFTED": any(self.shift),
            **launch.rows(self.dtype, *self.dims),
            "PRECISION": self.precision,
            **own,
            "num_warps": tiles.num_warps,
            "num_stages": tiles.num_stages,
        }


Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor, "Tensor | None", Tensor]
Outputs: TypeAlias = tuple[Tensor, Tensor, Tensor]


def _single_backward(
    problem: _Problem, tiles: Tiles, inputs: Inputs, outputs: Outputs, grad_bias: Tensor | None, scale: float
) -> None:
    query, key, value, _, grad_out = inputs
    chunks = problem.chunks(2)
    partial = None if grad_bias is None else _scratch(query, problem.heads, chunks, problem.tokens, problem.tokens)
    KERNELS.launch(
        "backward",
        chunks * problem.heads,
        *(*inputs, *outputs, partial),
        *map(launch.strides, (query, key, value, grad_out, *outputs)),
        *(*problem.shape, problem.windows, chunks, scale),
        **problem.constants(tiles),
    )
    if partial is not None and grad_bias is not None:
        _sum_by_offset(problem, partial, grad_bias, 0)


def _tiled_backward(
    problem: _Problem, tiles: Tiles, inputs: Inputs, outputs: Outputs, grad_bias: Tensor | None, scale: float
) -> None:
    query, key, value, _, grad_out = inputs
    grad_query, grad_key, grad_value = outputs
    constants = problem.constants(tiles)
    lse, mean = (_scratch(query, problem.windows, problem.heads, problem.tokens) for _ in range(2))
    strides = [launch.strides(tensor) for tensor in (query, key, value, grad_out)]
    TILED_KERNELS.launch(
        "backward_queries",
        problem.programs(tiles.queries),
        *(*inputs, grad_query, lse, mean, *strides, launch.strides(grad_query), *problem.shape, scale),
        **constants,
    )
    TILED_KERNELS.launch(
        "backward_keys",
        problem.programs(tiles.keys),
        *(*inputs, grad_key, grad_value, lse, mean, *strides, *map(launch.strides, (grad_key, grad_value))),
        *(*problem.shape, scale),
        **constants,
    )
    if grad_bias is None:
        return
    pairs = -(-problem.tokens // tiles.queries) * -(-problem.tokens // tiles.keys)
    per_head = 4 * problem.tokens**2  # bytes of a chunk
    wanted = -(-4 * problem.multiprocessors // (problem.heads * pairs))
    chunks = max(1, min(problem.windows, wanted, MAX_SCRATCH // (per_head * problem.heads)))
    together = max(1, min(problem.heads, MAX_SCRATCH // (per_head * chunks)))
    partial = _scratch(query, together, chunks, problem.tokens, problem.tokens)
    for head in range(0, problem.heads, together):
        some = min(together, problem.heads - head)
        TILED_KERNELS.launch(
            "backward_logits",
            some * pairs * chunks,
            *(*inputs, partial, lse, mean, *strides, *problem.shape, scale, head, some, problem.windows, chunks),
            **constants,
        )
        _sum_by_offset(problem, partial[:some], grad_bias, head)


def _scratch(tensor: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=tensor.device)


def _sum_by_offset(problem: _Problem, partial: Tensor, grad_bias: Tensor, first_head: int) -> None:
    """Fill the gradient of the bias of some heads, `[heads, chunks, queries, keys]`."""
    heads, chunks = partial.shape[:2]
    rows, entries = 1024, 4
    programs = heads * -(-prod(2 * size - 1 for size in problem.window) // entries)
    constants: dict[str, launch.Constant] = {"WINDOW": problem.window, "ROWS": rows, "ENTRIES": entries}
    KERNELS.launch("sum_by_offset", programs, partial, grad_bias, first_head, chunks, **constants, num_warps=8)


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)
