"""Calls of additive attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.additive.module import AdditiveAttention


def _sample(
    name: str,
    grid: tuple[int, ...],
    *,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 4,
    bias: bool = True,
    projections: float = 1.0,
    **options: object,
) -> Sample:
    shapes = {
        "query": (batch, *grid, num_heads, head_dim),
        "key": (batch, *grid, num_heads, head_dim),
        "query_weight": (num_heads, num_heads * head_dim),
        "key_weight": (num_heads, num_heads * head_dim),
    }
    if bias:
        shapes["query_bias"] = shapes["key_bias"] = (num_heads,)
    return Sample(name, shapes, options, {"query_weight": projections, "key_weight": projections})


SAMPLES = (
    _sample("1d", (11,)),
    _sample("2d", (5, 6)),
    _sample("3d", (3, 4, 2), batch=1),
    _sample("no_bias", (5, 3), bias=False),
    _sample("one_token", (1, 1)),
    _sample("one_row", (1, 9)),
    _sample("primes", (7, 11), num_heads=3, head_dim=5),
    _sample("batch_0", (4, 4), batch=0),
    _sample("batch_1_head_1", (4, 4), batch=1, num_heads=1, head_dim=1),
    _sample("logits_1e4", (3, 4), head_dim=2, projections=1e4),
    _sample("scale_0", (4, 3), scale=0.0),
    _sample("scale", (4, 3), scale=2.0),
)

MODULES = (ModuleSample(AdditiveAttention, {"dim": 8, "num_heads": 2}, (1, 4, 8)),)
