"""How far a long measurement is, on standard error."""

from __future__ import annotations

import time

import typer


class Progress:
    """Print a line per step, with the time left as the mean of the steps so far suggests.

    Args:
        total: steps.

    Example:
        >>> Progress(2).step("first")  # prints "1/2  first, about 0 s left" to standard error
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._begin = time.perf_counter()

    def step(self, text: str) -> None:
        """Say that a step is done."""
        self.done += 1
        spent = time.perf_counter() - self._begin
        left = spent / self.done * (self.total - self.done)
        ending = f", about {_duration(left)} left" if self.done < self.total else ""
        typer.echo(f"{self.done}/{self.total}  {text}{ending}", err=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
