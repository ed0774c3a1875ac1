"""Calls of window attention for the contract tests: each is small enough for a loop in Python."""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.window.module import WindowAttention


def _sample(
    name: str,
    grid: tuple[int, ...],
    window_size: int | tuple[int, ...],
    *,
    batch: int = 2,
    num_heads: int = 2,
    head_dim: int = 4,
    value_dim: int = 4,
    bias: bool = True,
    logits: float = 1.0,
    **options: object,
) -> Sample:
    window = (window_size,) * len(grid) if isinstance(window_size, int) else window_size
    shapes = {
        "query": (batch, *grid, num_heads, head_dim),
        "key": (batch, *grid, num_heads, head_dim),
        "value": (batch, *grid, num_heads, value_dim),
    }
    if bias:
        shapes["bias"] = (num_heads, *(2 * size - 1 for size in window))
    return Sample(name, shapes, {"window_size": window_size, **options}, {"query": logits})


SAMPLES = (
    _sample("2d", (4, 6), (2, 3)),
    _sample("1d", (12,), 4),
    _sample("3d", (2, 4, 6), (2, 2, 3), batch=1, num_heads=1),
    _sample("no_bias", (4, 6), (2, 3), bias=False),
    _sample("window_1", (3, 4), 1),
    _sample("shifted", (8, 8), 4, batch=1, shift_size=2),
    _sample("shifted_1d", (12,), 4, shift_size=3),
    _sample("shifted_3d", (4, 4, 4), 2, batch=1, num_heads=1, shift_size=(1, 0, 1)),
    _sample("shifted_one_axis", (6, 6), 3, shift_size=(0, 1)),
    _sample("shifted_no_bias", (4, 6), (4, 3), bias=False, shift_size=(1, 2)),
    _sample("no_multiple", (5, 7), (3, 4), batch=1),
    _sample("no_multiple_shifted", (5, 7), 3, batch=1, shift_size=1),
    _sample("window_is_grid", (3, 5), (3, 5)),
    _sample("window_is_grid_shifted", (6, 6), 6, shift_size=2),
    _sample("window_over_grid", (2, 5), (3, 4), small_grid="pad"),
    _sample("window_over_grid_shifted", (3, 2), 4, shift_size=2, small_grid="pad"),
    _sample("one_row", (1, 9), (1, 3), shift_size=(0, 1)),
    _sample("primes", (7, 11), (5, 3), head_dim=3, value_dim=7),
    _sample("batch_0", (4, 4), 2, batch=0, shift_size=1),
    _sample("batch_1_head_1", (4, 4), 2, batch=1, num_heads=1, head_dim=1, value_dim=1),
    _sample("logits_1e4", (4, 4), 4, logits=1e4, shift_size=1),
    _sample("scale_0", (4, 4), 2, scale=0.0),
)

MODULES = (ModuleSample(WindowAttention, {"dim": 8, "num_heads": 2, "window_size": 2}, (1, 4, 4, 8)),)
