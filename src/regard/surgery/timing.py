"""Timing calls against each other, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

MARGIN = 1.03
"""How many times as fast a change must be. A smaller gain is within the noise, and the original stays."""

MIN_ROUNDS, MAX_ROUNDS = 7, 41


@dataclass(frozen=True)
class Times:
    """Times of the original and of its replacement.

    Attributes:
        before: median seconds of the original.
        after: median seconds of the replacement.
        speedup: median of the ratios of two calls that follow each other. It is steadier than the ratio of the medians.
        low: lower quartile of these ratios.

    Example:
        >>> print(Times(0.003, 0.002, speedup=1.5, low=1.4))
        2.00 ms, before 3.00 ms
    """

    before: float
    after: float
    speedup: float
    low: float

    @property
    def is_faster(self) -> bool:
        """Whether the replacement is faster by more than the noise: by the margin, and in three of four rounds."""
        return self.speedup >= MARGIN and self.low >= 1

    def __add__(self, other: Times) -> Times:
        """Return the times of two calls together."""
        before, after = self.before + other.before, self.after + other.after
        return Times(before, after, before / after, before / after)

    def __str__(self) -> str:
        return f"{milliseconds(self.after)}, before {milliseconds(self.before)}"


def race(calls: Sequence[Callable[[], object]], seconds: float) -> list[Times]:
    """Time the first call against each of the others.

    The calls take turns, in an order that alternates, so that a noisy machine treats them alike.

    Args:
        calls: two or more.
        seconds: the time to spend. At least 7 and at most 41 rounds are run, whatever they take.
    """
    for call in (*calls, *calls):
        call()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < MIN_ROUNDS or (len(rounds) < MAX_ROUNDS and time.perf_counter() < end):
        turn = list(enumerate(calls))
        if len(rounds) % 2:
            turn.reverse()
        spent = {place: _seconds(call) for place, call in turn}
        rounds.append([spent[place] for place in range(len(calls))])
    before, *others = zip(*rounds, strict=True)
    return [_times(before, after) for after in others]


def milliseconds(seconds: float) -> str:
    """Return a time with three digits or so."""
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def _times(before: Sequence[float], after: Sequence[float]) -> Times:
    ratios = [old / new for old, new in zip(before, after, strict=True)]
    return Times(median(before), median(after), median(ratios), quantiles(ratios, n=4)[0])


def _seconds(call: Callable[[], object]) -> float:
    has_gpu = torch.cuda.is_initialized()
    # On one thread of a CPU, the thread's own time leaves out what other programs take.
    clock = time.thread_time if torch.get_num_threads() == 1 and not has_gpu else time.perf_counter
    begin = clock()
    call()
    if has_gpu:
        torch.cuda.synchronize()
    return clock() - begin
