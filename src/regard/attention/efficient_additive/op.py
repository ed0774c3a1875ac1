"""Efficient additive attention as an operator of PyTorch: `regard::efficient_additive_attention`."""

from __future__ import annotations

from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.efficient_additive import cpu, gpu, reference


def empty_outputs(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """Allocate the context on the unit keys and the unit queries, `[B, *grid, C]` each."""
    return query.new_empty(query.shape), query.new_empty(query.shape)


OPERATOR = Operator(
    "efficient_additive_attention("
    "Tensor query, Tensor key, Tensor weight, str token_norm, float scale) -> (Tensor, Tensor)",
    reference=reference.efficient_additive_attention,
    outputs=empty_outputs,
    kernels=(cpu.KERNEL, gpu.KERNEL),
)
