"""Neighborhood attention as an operator of PyTorch: `regard::neighborhood_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.neighborhood import cpu, gpu, reference


def empty_outputs(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the output `[B, *grid, nh, hd_v]` and two statistics `[B, *grid, nh]`, float32 for 16-bit inputs.

    The log-sum-exp of a query is the sum of its statistics. Each kernel divides it as it likes.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    largest = query.new_empty(query.shape[:-1], dtype=wide)
    return query.new_empty(*query.shape[:-1], value.shape[-1]), largest, torch.empty_like(largest)


def forward_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], kernel_size: Sequence[int], *_: object
) -> int:
    """Count two products: logits and output."""
    return 2 * prod(query[:-1]) * prod(kernel_size) * (query[-1] + value[-1])


def backward_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], kernel_size: Sequence[int], *_: object
) -> int:
    """Count the five products of the mathematics; the kernel makes two of them twice."""
    return 2 * prod(query[:-1]) * prod(kernel_size) * (3 * query[-1] + 2 * value[-1])


OPERATOR = Operator(
    "neighborhood_attention("
    "Tensor query, Tensor key, Tensor value, int[] kernel_size, int[] dilation, int[] stride, bool[] is_causal, "
    "Tensor? bias, float scale) -> (Tensor, Tensor, Tensor)",
    reference=reference.neighborhood_attention,
    outputs=empty_outputs,
    kernels=(cpu.KERNEL, gpu.KERNEL),
    statistics=2,
    saves_outputs=True,
    autocast=True,
    flops=(forward_flops, backward_flops),
)
