"""Times of calls on a machine that does other work, too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_ROUNDS, MAX_ROUNDS = 5, 51
NOISY = 0.25
"""A spread over which a time has no three digits."""


@dataclass(frozen=True)
class Times:
    """The times of one call.

    Attributes:
        seconds: of every round, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds took at most the first and at least the second."""
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Distance of the quartiles, relative to the median."""
        low, high = self.quartiles
        return (high - low) / self.median

    def ratio_to(self, other: Times) -> float:
        """Return the median, over the rounds, of this time over another one that was measured in turn with it."""
        return statistics.median(own / reference for own, reference in zip(self.seconds, other.seconds, strict=True))

    @property
    def is_noisy(self) -> bool:
        """Whether other programs have disturbed the measurement."""
        return self.spread > NOISY


def time_in_turn(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Times]:
    """Measure calls in turn, so that other programs slow all of them alike.

    Every timed call follows an untimed one, which brings its own data into the caches.

    Args:
        calls: by name.
        seconds: roughly how long all of it may take; there are at least five rounds nevertheless.

    Example:
        >>> found = time_in_turn({"sum": lambda: sum(range(1000)), "nothing": lambda: None}, seconds=0.01)
        >>> found["sum"].median > found["nothing"].median
        True
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        rounds += 1
        for name, call in calls.items():
            call()
            begin = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begin)
    return {name: Times(tuple(times)) for name, times in found.items()}
