"""The GPU kernel of separable attention: triton_kernels.py's functions, launched on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.separable.reference import Arguments
from regard.gpu import launch, shares

KERNELS = launch.Kernels("regard.attention.separable.triton_kernels")


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return shares.reasons(arguments.query, 1, arguments.key.shape[-1])


def forward(out: Tensor, query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int]) -> None:
    """Fill `out`."""
    problem = _problem(key, value, patch_size)
    contexts, statistics = problem.pools(key)
    query, key, value, out = map(_tokens, (query, key, value, out))
    tensors = (key, query, value, None, contexts, statistics, None)
    steps = [one.stride() for one in (key, query, value, out)]
    problem.launch("pool", *tensors, *steps, *problem.grids, problem.parts, *problem.tiles)
    _, value_grid, patch = problem.grids
    steps = [out.stride(), value.stride()]
    sizes = value_grid, patch, problem.parts, problem.tiles[1]
    problem.launch("multiply", out, value, contexts, statistics, *steps, *sizes)


def backward(
    grads: list[Tensor], grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int]
) -> None:
    """Fill the gradients of query, key and value."""
    problem = _problem(key, value, patch_size)
    contexts, statistics = problem.pools(key)
    sums = torch.empty_like(contexts)
    grad_query, grad_key, grad_value = map(_tokens, grads[:3])
    inputs = [_tokens(one) for one in (key, query, value, grad_out)]
    outputs = [grad_key, grad_query, grad_value]
    scratch = (contexts, statistics, sums)
    steps = [one.stride() for one in outputs + inputs]
    problem.launch("pool", *inputs, *scratch, *steps[3:], *problem.grids, problem.parts, *problem.tiles)
    problem.launch("backward", *outputs, *inputs, *scratch, *steps, *problem.grids, problem.parts, *problem.tiles)


class _Problem(NamedTuple):
    groups: int  # positions inside the patches of all batch entries
    parts: int
    tiles: tuple[int, int]  # of keys and of values, per program
    grids: tuple[tuple[int, ...], ...]  # of keys, of values, of a patch
    shape: tuple[int, ...]
    warps: int

    def pools(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Allocate the contexts and the statistics of all parts."""
        places = self.groups * self.parts
        return shares.scratch(key, places, key.shape[-1]), shares.scratch(key, places, 2)

    def launch(self, name: str, *arguments: launch.Argument) -> None:
        KERNELS.launch(name, self.groups * self.parts, *arguments, SHAPE=self.shape, num_warps=self.warps)


def _problem(key: Tensor, value: Tensor, patch_size: Sequence[int]) -> _Problem:
    grids = [launch.per_axis(grid, 1) for grid in (key.shape[1:-1], value.shape[1:-1], patch_size)]
    positions = math.prod(patch_size)
    patches = [math.prod(grid) // positions for grid in grids[:2]]
    groups = key.shape[0] * positions
    shared = shares.share(key, groups, max(patches), 1, key.shape[-1])
    keys, values = (-(-count // (shared.shape[0] * shared.parts)) for count in patches)
    return _Problem(groups, shared.parts, (keys, values), tuple(grids), shared.shape, shared.warps)


def _tokens(tensor: Tensor) -> Tensor:
    """Merge the grid's axes, `[B, N, 1, C]`; a tensor whose strides forbid it is copied."""
    return tensor.flatten(1, -2).unsqueeze(-2)


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)
