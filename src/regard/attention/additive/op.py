"""Additive attention as an operator of PyTorch: `regard::additive_attention`."""

from __future__ import annotations

from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.additive import cpu, gpu, reference


def empty_output(query: Tensor, *_: object) -> tuple[Tensor]:
    """Allocate `[B, *grid, nh, hd]`."""
    return (query.new_empty(query.shape),)


OPERATOR = Operator(
    "additive_attention("
    "Tensor query, Tensor key, Tensor query_weight, Tensor key_weight, Tensor? query_bias, Tensor? key_bias, "
    "float scale) -> Tensor",
    reference=reference.additive_attention,
    outputs=empty_output,
    kernels=(cpu.KERNEL, gpu.KERNEL),
)
