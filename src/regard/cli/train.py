"""`regard train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from regard import training
from regard.cli.options import option, options_from
from regard.cli.tables import Table, show
from regard.errors import RegardError
from regard.training import ProgressBar, Run, TrainConfig
from regard.training.interrupts import REQUEUE, StopRequested
from regard.training.processes import ProcessLostError, is_first
from regard.training.recipes import RECIPES, resolve
from regard.training.run import WEIGHTS

RESUME = option("resume", Path, "Continue the run in this folder, from its last checkpoint.")
SHOW = option("show_recipe", bool, "Print the settings, where each comes from, and the recipes; train nothing.", False)


@options_from(TrainConfig, RESUME, SHOW)
def train(options: dict[str, Any]) -> None:
    """Train a model and save the run: best weights, config, metrics, a plot of the metrics, and checkpoints.

    Exit code 75 says that SIGTERM or SIGUSR1 stopped it: submit the same job with --resume.

    Example: regard train --model nat_nano --data digits --out runs/digits --recipe digits
    """
    resumed, is_shown = options.pop("resume", None), options.pop("show_recipe", False)
    if is_shown:
        show_recipe(options)
        return
    out = Path(resumed or options.get("out", ""))
    before = _saved_at(out)
    try:
        if resumed is None:
            run = train_with_bar(resolve(**options).config)
        else:
            run = training.resume(resumed, watcher=ProgressBar(), **options)
    except KeyboardInterrupt:
        is_saved = _saved_at(out) not in (None, before)  # the weights may be those of an earlier run
        what = "the best weights, the metrics and a checkpoint are in" if is_saved else "nothing was saved in"
        _say(f"interrupted; {what} {out}")
        raise typer.Exit(130) from None
    except StopRequested as request:
        _say(f"{request}; continue with: regard train --resume {out}")
        raise typer.Exit(REQUEUE) from None
    except RegardError as error:
        if is_first() or isinstance(error, ProcessLostError):
            raise
        raise typer.Exit(2) from error  # the first process says it
    _say(f"done: {run.path} holds {', '.join(sorted(path.name for path in run.path.iterdir() if path.name[0] != '.'))}")


def show_recipe(options: dict[str, Any]) -> None:
    """Print the settings that options and their recipe result in, and the recipes."""
    places = {"model": "MODEL", "data": "DATA", "out": "OUT"}
    found = resolve(**{**places, **options})
    table = Table("setting", "value", "from", title="settings", whole=("setting",))
    for name, origin in found.origins.items():
        value = getattr(found.config, name)
        if name in places and name not in options and value == places[name]:
            continue
        table.add(name, "" if value is None else str(value), "" if origin == "default" else origin)
    recipes = Table("recipe", "for", "source", title="recipes", whole=("recipe",))
    for name, recipe in RECIPES.items():
        recipes.add(name, recipe.purpose, recipe.source)
    show(table, recipes)


def train_with_bar(config: TrainConfig) -> Run:
    """Train a model, with a progress bar on a terminal, and print one line per epoch."""
    return training.train(config, watcher=ProgressBar())


def _say(line: str) -> None:
    if is_first():
        typer.echo(line)


def _saved_at(out: Path) -> int | None:
    weights = out / WEIGHTS
    return weights.stat().st_mtime_ns if weights.is_file() else None
