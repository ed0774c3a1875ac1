"""Times and memory of calls on a machine that does other work, too."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MIN_ROUNDS, MAX_ROUNDS = 3, 51
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

    @property
    def is_noisy(self) -> bool:
        """Whether other programs have disturbed the measurement."""
        return self.spread > NOISY


def time_in_turn(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Times]:
    """Measure calls in turn, so that other programs slow all of them alike.

    Every timed call follows an untimed one, which brings its own data into the caches.

    Args:
        calls: by name.
        seconds: roughly how long all of it may take; there are at least three rounds nevertheless.

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


def peak_memory(call: Callable[[], object]) -> int | None:
    """Return the bytes by which a call raises this process's memory at its peak; None where the system cannot tell.

    Linux with glibc tells. What earlier calls have freed is given back to the system first, as far as it can be, so
    that this is a lower bound.
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)
        forget.write_text("5")  # the peak so far
        before = _field(status, "VmRSS")
        call()
        return max(0, _field(status, "VmHWM") - before)
    except (OSError, AttributeError):  # another system, another C library
        return None


def _field(status: Path, name: str) -> int:
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
