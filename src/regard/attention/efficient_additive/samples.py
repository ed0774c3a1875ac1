"""Calls of efficient additive attention for the contract tests: each is small enough for a loop in Python.

With a scale of 0 the scores are zero whatever the inputs, so that the call is differentiable, although the L2 norm is
not differentiable where scores merely happen to be zero. A single token is left out for "l2": its weight is 1 or -1, so
that all of the scores' gradient is rounding, with nothing to measure it by.
"""

from __future__ import annotations

from regard.attention._mechanism import ModuleSample, Sample
from regard.attention.efficient_additive.module import EfficientAdditiveAttention


def _sample(
    name: str, grid: tuple[int, ...], *, batch: int = 2, channels: int = 6, weight: float = 1.0, **options: object
) -> Sample:
    shapes = {"query": (batch, *grid, channels), "key": (batch, *grid, channels), "weight": (channels,)}
    return Sample(name, shapes, options, {"weight": weight})


SAMPLES = (
    _sample("1d", (11,)),
    _sample("2d", (5, 6)),
    _sample("3d", (3, 4, 2), batch=1),
    _sample("softmax", (5, 6), token_norm="softmax"),
    _sample("ones", (5, 6), token_norm="ones"),
    _sample("one_token_ones", (1, 1), token_norm="ones"),
    _sample("one_token_softmax", (1,), token_norm="softmax"),
    _sample("one_row", (1, 9)),
    _sample("primes", (7, 11), batch=1, channels=13),
    _sample("batch_0", (4, 4), batch=0),
    _sample("batch_1", (4, 4), batch=1),
    _sample("logits_1e4", (3, 4), weight=1e4),
    _sample("logits_1e4_softmax", (3, 4), weight=1e4, token_norm="softmax"),
    _sample("scale_0", (2, 2), scale=0.0),
    _sample("scale_0_softmax", (4, 3), scale=0.0, token_norm="softmax"),
    _sample("scale", (8, 9), scale=2.0, token_norm="softmax"),
)

MODULES = (ModuleSample(EfficientAdditiveAttention, {"in_dims": 8, "token_dim": 8}, (1, 4, 8)),)
