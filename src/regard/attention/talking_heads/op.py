"""Talking-heads attention as an operator of PyTorch: `regard::talking_heads_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from regard.attention._operator import Operator
from regard.attention.talking_heads import cpu, gpu, reference


def empty_output(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor]:
    """Allocate `[B, *grid, h_v, hd_v]`."""
    return (query.new_empty(*query.shape[:-2], *value.shape[-2:]),)


Shape = Sequence[int]


def forward_flops(query: Shape, key: Shape, value: Shape, logits_mix: Shape, weights_mix: Shape, *_: object) -> int:
    """Count four products: logits, both mixes, output."""
    pairs = prod(query[:-2]) * prod(key[1:-2])
    return 2 * pairs * (prod(query[-2:]) + prod(value[-2:]) + prod(logits_mix) + prod(weights_mix))


def backward_flops(query: Shape, key: Shape, value: Shape, logits_mix: Shape, weights_mix: Shape, *_: object) -> int:
    """Count the products of the mathematics; the kernel makes those of the weights again."""
    pairs = prod(query[:-2]) * prod(key[1:-2])
    products = 3 * prod(query[-2:]) + 2 * prod(value[-2:]) + 3 * prod(logits_mix) + 2 * prod(weights_mix)
    return 2 * pairs * products


OPERATOR = Operator(
    "talking_heads_attention("
    "Tensor query, Tensor key, Tensor value, Tensor logits_mix, Tensor weights_mix, "
    "Tensor? logits_bias, Tensor? weights_bias, float scale) -> Tensor",
    reference=reference.talking_heads_attention,
    outputs=empty_output,
    kernels=(cpu.KERNEL, gpu.KERNEL),
    autocast=True,
    flops=(forward_flops, backward_flops),
)
