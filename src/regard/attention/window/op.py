"""Window attention as an operator of PyTorch: `regard::window_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.window import cpu, gpu, reference


def empty_output(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor]:
    """Allocate `[B, *grid, nh, hd_v]`."""
    return (query.new_empty(*query.shape[:-1], value.shape[-1]),)


def forward_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], window_size: Sequence[int], *_: object
) -> int:
    """Count two products: logits and output."""
    return 2 * prod(query[:-1]) * prod(window_size) * (query[-1] + value[-1])


def backward_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], window_size: Sequence[int], *_: object
) -> int:
    """Count the five products of the mathematics; the kernel makes one of them again."""
    return 2 * prod(query[:-1]) * prod(window_size) * (3 * query[-1] + 2 * value[-1])


OPERATOR = Operator(
    "window_attention("
    "Tensor query, Tensor key, Tensor value, int[] window_size, int[] shift_size, Tensor? bias, float scale) -> Tensor",
    reference=reference.window_attention,
    outputs=empty_output,
    kernels=(cpu.KERNEL, gpu.KERNEL),
    autocast=True,
    flops=(forward_flops, backward_flops),
)
