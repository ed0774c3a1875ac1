"""Separable attention as an operator of PyTorch: `regard::separable_attention`."""

from __future__ import annotations

from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.separable import cpu, gpu, reference


def empty_output(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor]:
    """Allocate `[B, *grid_v, C]`."""
    return (value.new_empty(value.shape),)


OPERATOR = Operator(
    "separable_attention(Tensor query, Tensor key, Tensor value, int[] patch_size) -> Tensor",
    reference=reference.separable_attention,
    outputs=empty_output,
    kernels=(cpu.KERNEL, gpu.KERNEL),
)
