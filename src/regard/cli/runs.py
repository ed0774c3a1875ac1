"""Open the run that a command uses."""

from __future__ import annotations

from pathlib import Path

import typer

from regard.training import Run


def open_run(path: Path) -> Run:
    """Open a run, and warn on standard error if its training did not finish."""
    run = Run.open(path)
    if (unfinished := run.unfinished()) is not None:
        typer.echo(
            f"warning: the run {path} is not fully trained: {unfinished}; continue it with: regard train --resume "
            f"{path}",
            err=True,
        )
    return run
