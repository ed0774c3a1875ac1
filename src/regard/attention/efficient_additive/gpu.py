"""The GPU kernel of efficient additive attention: triton_kernels.py's functions, launched on tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.efficient_additive.reference import Arguments
from regard.gpu import launch, shares

KERNELS = launch.Kernels("regard.attention.efficient_additive.triton_kernels")


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return shares.reasons(arguments.query, 1, arguments.query.shape[-1])


def forward(
    out: Tensor, unit_query: Tensor, query: Tensor, key: Tensor, weight: Tensor, token_norm: str, scale: float
) -> None:
    """Fill the context on the unit keys and the unit queries."""
    out, unit_query, query, key = map(_tokens, (out, unit_query, query, key))
    problem = _problem(query, token_norm)
    pools = problem.pools(query)
    missing = None, None, None, None  # what the backward pass sums up
    steps = query.stride(), unit_query.stride(), key.stride(), out.stride()
    tensors = (query, unit_query, weight.contiguous(), *pools, *missing)
    problem.launch("pool", *tensors, *steps, *problem.sizes, scale, problem.smallest)
    problem.launch("multiply", out, key, *pools, out.stride(), key.stride(), *problem.sizes, problem.smallest)


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    grad_unit_query: Tensor,
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    token_norm: str,
    scale: float,
) -> None:
    """Fill the gradients of query, key and weight."""
    tensors = [_tokens(one) for one in (*grads[:2], query, key, grad_out, grad_unit_query)]
    grad_query, grad_key, query, key, out, unit_query = tensors
    problem, weight = _problem(query, token_norm), weight.contiguous()
    pools, scores = problem.pools(query), shares.scratch(query, *query.shape[:2])
    sums, weight_grads = torch.empty_like(pools[0]), torch.empty_like(pools[0])
    sizes = *problem.sizes, scale, problem.smallest
    steps = query.stride(), unit_query.stride(), key.stride(), out.stride()
    problem.launch("pool", query, None, weight, *pools, scores, key, out, sums, *steps, *sizes)
    written = (grad_query, grad_key, weight_grads)
    all_steps = [one.stride() for one in tensors]
    problem.launch("backward", *written, *tensors[2:], weight, *pools, scores, sums, *all_steps, *sizes)
    grads[2].copy_(weight_grads.sum(0))


class _Problem(NamedTuple):
    batch: int
    tokens: int
    channels: int
    shares: shares.Shares
    token_norm: str
    smallest: float

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.tokens, self.shares.parts, self.shares.tiles

    def pools(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Allocate the contexts and the statistics of all parts."""
        places = self.batch * self.shares.parts
        return shares.scratch(tensor, places, self.channels), shares.scratch(tensor, places, 2)

    def launch(self, name: str, *arguments: launch.Argument) -> None:
        programs, shape, warps = self.batch * self.shares.parts, self.shares.shape, self.shares.warps
        KERNELS.launch(name, programs, *arguments, NORM=self.token_norm, SHAPE=shape, num_warps=warps)


def _problem(query: Tensor, token_norm: str) -> _Problem:
    batch, tokens, _, channels = query.shape
    smallest = max(1e-12, torch.finfo(query.dtype).smallest_normal)  # as the reference clamps norms
    return _Problem(batch, tokens, channels, shares.share(query, *query.shape), token_norm, smallest)


def _tokens(tensor: Tensor) -> Tensor:
    """Merge the grid's axes, `[B, N, 1, C]`; a tensor whose strides forbid it is copied."""
    return tensor.flatten(1, -2).unsqueeze(-2)


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)
