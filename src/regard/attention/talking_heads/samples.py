"""Calls of talking-heads attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.talking_heads.module import TalkingHeadsAttention


def _sample(
    name: str,
    grid: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    *,
    batch: int = 2,
    heads: tuple[int, int, int] = (3, 3, 3),
    head_dim: int = 4,
    value_dim: int = 4,
    bias: bool = True,
    logits: float = 1.0,
    **options: object,
) -> Sample:
    keys = grid if key_grid is None else key_grid
    key_heads, softmax_heads, value_heads = heads
    shapes: dict[str, tuple[int, ...]] = {
        "query": (batch, *grid, key_heads, head_dim),
        "key": (batch, *keys, key_heads, head_dim),
        "value": (batch, *keys, value_heads, value_dim),
        "logits_mix": (softmax_heads, key_heads),
        "weights_mix": (value_heads, softmax_heads),
    }
    if bias:
        shapes |= {"logits_bias": (softmax_heads,), "weights_bias": (value_heads,)}
    return Sample(name, shapes, options, {"query": logits})


SAMPLES = (
    _sample("2d", (3, 4)),
    _sample("1d", (9,)),
    _sample("3d", (2, 3, 2), batch=1),
    _sample("no_bias", (3, 4), bias=False),
    _sample("unequal_heads", (3, 3), heads=(2, 5, 3)),
    _sample("fewer_softmaxes", (3, 3), heads=(4, 1, 2), value_dim=3),
    _sample("cross", (2, 3), (5, 3)),
    _sample("cross_other_axes", (5,), (2, 4), heads=(2, 3, 4)),
    _sample("one_query", (1,), (7,)),
    _sample("one_key", (2, 3), (1,)),
    _sample("one_row", (1, 9)),
    _sample("primes", (5, 7), batch=1, head_dim=3, value_dim=5),
    _sample("batch_0", (3, 3), batch=0),
    _sample("batch_1_head_1", (3, 3), batch=1, heads=(1, 1, 1), head_dim=1, value_dim=1),
    _sample("logits_1e4", (4, 4), logits=1e4),
    _sample("scale_0", (3, 4), scale=0.0),
)

MODULES = (ModuleSample(TalkingHeadsAttention, {"dim": 8, "num_heads": 2}, (1, 4, 8)),)
