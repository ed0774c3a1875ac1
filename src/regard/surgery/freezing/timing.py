"""Timing of several calls in turn, so that a noisy machine treats them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

MIN_ROUNDS, MAX_ROUNDS = 5, 50


class Timing(NamedTuple):
    """The time of one call.

    Attributes:
        seconds: median.
        ratio: median, over the rounds, of its time over that of the first call.
    """

    seconds: float
    ratio: float


def time_in_turn(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Measure calls in turn.

    Args:
        calls: the first one is what the others are compared with.
        seconds: roughly how long the measurement may take; it has at least five rounds nevertheless.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        rounds += 1
        for name, call in calls.items():
            call()  # untimed, since the call before has left its own data in the caches
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    first = next(iter(times.values()))
    return {
        name: Timing(statistics.median(own), statistics.median(map(_ratio, own, first))) for name, own in times.items()
    }


def _ratio(time: float, reference: float) -> float:
    return time / reference
