"""Calls of softmax attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.softmax.module import Attention, ClassAttention


def _sample(
    name: str,
    grid: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    *,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 4,
    value_dim: int = 4,
    bias: tuple[int, ...] | None = None,
    key_distance: int | None = None,
    value_distance: int | None = None,
    logits: float = 1.0,
    **options: object,
) -> Sample:
    keys = grid if key_grid is None else key_grid
    shapes = {
        "query": (batch, *grid, num_heads, head_dim),
        "key": (batch, *keys, num_heads, head_dim),
        "value": (batch, *keys, num_heads, value_dim),
    }
    if bias is not None:
        shapes["bias"] = bias
    if key_distance is not None:
        shapes["relative_key"] = (len(grid), 2 * key_distance + 1, head_dim)
    if value_distance is not None:
        shapes["relative_value"] = (len(grid), 2 * value_distance + 1, value_dim)
    return Sample(name, shapes, options, {"query": logits})


SAMPLES = (
    _sample("2d_all", (2, 3), bias=(2, 2, 6, 6), key_distance=1, value_distance=1),
    _sample("1d", (9,)),
    _sample("2d", (3, 4)),
    _sample("3d", (2, 2, 3), batch=1),
    _sample("bias_per_head", (3, 3), bias=(2, 9, 9)),
    _sample("bias_per_key", (3, 3), (2, 4), bias=(2, 1, 1, 8)),
    _sample("bias_shared", (5,), (7,), bias=(5, 7)),
    _sample("cross", (2, 3), (5, 3)),
    _sample("cross_other_axes", (5,), (2, 2, 3), value_dim=3),
    _sample("class_token", (1,), (7,)),
    _sample("one_key", (2, 3), (1,)),
    _sample("shaw", (11,), key_distance=3, value_distance=2),
    _sample("shaw_key_only", (4, 3), key_distance=9, value_dim=3),
    _sample("shaw_value_only_3d", (2, 3, 2), value_distance=1, value_dim=5),
    _sample("shaw_distance_0", (6,), key_distance=0, value_distance=0),
    _sample("one_row", (1, 9), key_distance=2),
    _sample("primes", (7, 11), batch=1, head_dim=3, value_dim=5),
    _sample("batch_0", (3, 4), batch=0, bias=(2, 12, 12)),
    _sample("batch_1_head_1", (3, 4), batch=1, num_heads=1, head_dim=1, value_dim=1),
    _sample("logits_1e4", (4, 4), bias=(2, 16, 16), logits=1e4),
    _sample("logits_1e4_shaw", (7,), key_distance=2, logits=1e4),
    _sample("scale_0", (4, 4), bias=(2, 16, 16), scale=0.0),
)

MODULES = (
    ModuleSample(Attention, {"dim": 8, "num_heads": 2}, (1, 4, 8)),
    ModuleSample(Attention, {"dim": 8, "num_heads": 2, "qk_norm": True, "relative_distance": 2}, (1, 4, 8)),
    ModuleSample(ClassAttention, {"dim": 8, "num_heads": 2}, (1, 4, 8)),
)
