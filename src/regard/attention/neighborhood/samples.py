"""Calls of neighborhood attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.neighborhood.module import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
)


def _sample(
    name: str,
    grid: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    *,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 4,
    value_dim: int = 4,
    bias: bool = True,
    logits: float = 1.0,
    **options: object,
) -> Sample:
    kernels = (kernel_size,) * len(grid) if isinstance(kernel_size, int) else kernel_size
    shapes = {
        "query": (batch, *grid, num_heads, head_dim),
        "key": (batch, *grid, num_heads, head_dim),
        "value": (batch, *grid, num_heads, value_dim),
    }
    if bias:
        shapes["bias"] = (num_heads, *(2 * kernel - 1 for kernel in kernels))
    return Sample(name, shapes, {"kernel_size": kernel_size, **options}, {"query": logits})


SAMPLES = (
    _sample("1d", (11,), 5),
    _sample("2d", (5, 6), 3),
    _sample("3d", (3, 4, 5), 3, batch=1, num_heads=1),
    _sample("no_bias", (5, 6), (3, 5), bias=False),
    _sample("even_kernel", (6, 7), (4, 2)),
    _sample("kernel_1", (4, 3), 1),
    _sample("dilated_unequal_groups", (11, 8), 3, batch=1, dilation=(3, 2)),
    _sample("stride", (7, 9), (3, 4), stride=(2, 3)),
    _sample("stride_is_kernel", (6, 8), (3, 4), stride=(3, 4)),
    _sample("causal", (5, 6), 3, is_causal=True),
    _sample("causal_one_axis_dilated", (7, 5), (3, 5), dilation=(2, 1), is_causal=(True, False)),
    _sample("causal_stride", (13,), 4, stride=3, dilation=2, is_causal=True),
    _sample("window_is_grid", (3, 5), (3, 5)),
    _sample("window_over_grid", (2, 4), 3, dilation=(1, 2), small_grid="pad"),
    _sample("one_row", (1, 9), (1, 5)),
    _sample("primes", (7, 11), (5, 3), batch=1, head_dim=3, value_dim=7),
    _sample("batch_0", (4, 4), 3, batch=0),
    _sample("batch_1_head_1", (4, 4), 3, batch=1, num_heads=1, head_dim=1, value_dim=1),
    _sample("logits_1e4", (5, 5), 3, logits=1e4),
    _sample("scale_0", (5, 5), 3, scale=0.0),
)

MODULES = (
    ModuleSample(NeighborhoodAttention1d, {"dim": 8, "num_heads": 2, "kernel_size": 3}, (1, 5, 8)),
    ModuleSample(NeighborhoodAttention2d, {"dim": 8, "num_heads": 2, "kernel_size": 3}, (1, 4, 4, 8)),
    ModuleSample(NeighborhoodAttention3d, {"dim": 8, "num_heads": 2, "kernel_size": 2}, (1, 2, 3, 3, 8)),
)
