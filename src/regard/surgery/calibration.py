"""Stored speed-ups per instruction set, which decide where nothing is measured."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from regard.attention import native_library

FILE = Path(__file__).with_name("calibration.json")
"""Written by `benchmarks/calibrate.py`."""


def is_faster(kind: str) -> bool:
    """Whether a kind of replacement is faster by default. One that was never measured counts as faster.

    Args:
        kind: the replacement, such as "for_timm.vit.Attention", "PackedLinear" or "plan channels-last".
    """
    return speedups().get(kind, 1.0) >= 1.0


@cache
def speedups() -> dict[str, float]:
    """Return the stored speed-ups for this processor's instruction set; empty if it was not measured."""
    stored = json.loads(FILE.read_text())
    return stored.get(native_library().instruction_set, {}).get("speedups", {})
