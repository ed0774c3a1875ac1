"""Calls of separable attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.separable.module import SeparableAttention


def _sample(
    name: str,
    grid: tuple[int, ...],
    *,
    value_grid: tuple[int, ...] | None = None,
    batch: int = 2,
    channels: int = 6,
    logits: float = 1.0,
    **options: object,
) -> Sample:
    shapes = {
        "query": (batch, *grid, 1),
        "key": (batch, *grid, channels),
        "value": (batch, *(grid if value_grid is None else value_grid), channels),
    }
    return Sample(name, shapes, options, {"query": logits})


SAMPLES = (
    _sample("1d", (12,), patch_size=3),
    _sample("2d", (4, 6), patch_size=2),
    _sample("3d", (4, 2, 6), batch=1, patch_size=(2, 1, 3)),
    _sample("patch_1", (5, 6)),
    _sample("patch_per_axis", (6, 4), patch_size=(3, 2)),
    _sample("unfolded", (4, 7), patch_size=(4, 1)),
    _sample("patch_is_grid", (3, 4), patch_size=(3, 4)),
    _sample("cross", (4, 6), value_grid=(6, 2), patch_size=2),
    _sample("cross_1d_patch_1", (7,), value_grid=(1,)),
    _sample("one_token", (1, 1)),
    _sample("one_row", (1, 9), patch_size=(1, 3)),
    _sample("primes", (7, 11), batch=1, channels=13),
    _sample("batch_0", (4, 4), batch=0, patch_size=2),
    _sample("batch_1_channel_1", (12, 8), batch=1, channels=1, patch_size=2),
    _sample("logits_1e4", (4, 6), patch_size=2, logits=1e4),
)

MODULES = (ModuleSample(SeparableAttention, {"dim": 8}, (1, 4, 8)),)
