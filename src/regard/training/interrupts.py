"""Signals that ask a job to save its state and end, as Slurm and Kubernetes send them before they take a machine."""

from __future__ import annotations

import signal
from types import FrameType

REQUEUE = 75
"""The exit code of a job that was stopped by a signal and can be resumed: `EX_TEMPFAIL` of sysexits.h."""


ASKING = ("SIGTERM", "SIGUSR1")
GRACE = 10  # seconds in which the main process can save before the processes that read images end


class StopRequested(Exception):  # noqa: N818  # not an error: the run is saved and can be resumed
    """A signal asked the run to stop. Its state is saved.

    Attributes:
        signal: name of the signal.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"stopped by {name}")
        self.signal = name


class Aborted(KeyboardInterrupt):
    """A second Ctrl-C, which does not wait for the end of the step and saves nothing."""


def end_later(worker: int) -> None:
    """Let a process that reads images outlive these signals a little, since a cluster sends them to all of a job."""
    del worker
    for name in ASKING:
        if hasattr(signal, name) and hasattr(signal, "alarm"):
            signal.signal(getattr(signal, name), lambda *_: signal.alarm(GRACE))


class Signals:
    """Remember SIGTERM, SIGUSR1 and SIGINT in a context, where Python can receive them: in the main thread.

    Example:
        >>> import os
        >>> with Signals() as signals:
        ...     os.kill(os.getpid(), signal.SIGUSR1)
        ...     signals.received
        'SIGUSR1'
    """

    def __init__(self) -> None:
        self.received = ""

    def __enter__(self) -> Signals:
        self._before = {}
        for name in (*ASKING, "SIGINT"):
            number = getattr(signal, name, None)
            try:
                if number is not None:
                    self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if name == self.received == "SIGINT":
            raise Aborted
        self.received = name
