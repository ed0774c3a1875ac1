"""`regard train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from regard import training
from regard.cli.options import option, options_from
from regard.cli.tables import Table, show
from regard.errors import RegardError
from regard.training import Record, Run, Source, TrainConfig, Watcher
from regard.training.interrupts import REQUEUE, StopRequested
from regard.training.processes import ProcessLostError, expected, is_first
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
            run = _with_bar(lambda watcher: training.resume(resumed, watcher=watcher, **options))
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
    """Train a model, with a progress bar on a terminal or in a notebook, and print one line per epoch."""
    return _with_bar(lambda watcher: training.train(config, watcher=watcher))


def _with_bar(start: Callable[[Watcher], Run]) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
    console = Console()
    is_live = is_first() and (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, transient=True, disable=not is_live) as bar:
        return start(_Bar(bar))


def _say(line: str) -> None:
    if is_first():
        typer.echo(line)


def _saved_at(out: Path) -> int | None:
    weights = out / WEIGHTS
    return weights.stat().st_mtime_ns if weights.is_file() else None


class _Bar(Watcher):
    """Report the progress with a bar and with lines."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task: TaskID | None = None

    def checked(self, images: int, total: int) -> None:
        self._update("checking the images", images, total)

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        ignored = f", {source.ignored} files ignored (hidden or not images)" if source.ignored else ""
        count = len(source.skipped)
        skipped = f", {count} broken image{'' if count == 1 else 's'} left out" if count else ""
        test = f", {len(source.test)} test images" if len(source.test) else ""
        many = expected()
        on = f", {many} processes" if many > 1 else ""
        self._print(f"{config.model}: {parameters:,} parameters, seed {config.seed}, run {config.out}{on}")
        self._print(
            f"{config.data}: {len(source.classes)} classes, {len(source.train)} training images, "
            f"{len(source.val)} validation images{test}{ignored}{skipped}"
        )
        for image, reason in source.skipped.items():
            self._print(f"left out {image}: {reason}")
        self.epochs = config.epochs
        self._update("starting", 0, None)

    def stepped(self, progress: training.Progress) -> None:
        self._update(
            f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"accuracy {progress.accuracy:6.2%}  {progress.images_per_second:,.0f} images/s",
            (progress.epoch - 1) * progress.steps + progress.step,
            progress.epochs * progress.steps,
        )

    def validated(self, record: Record) -> None:
        if record.train_loss is None or record.train_accuracy is None:
            train = "train: no step had a finite loss"
        else:
            train = f"train loss {record.train_loss:.3f} accuracy {record.train_accuracy:7.2%}"
        self._print(
            f"epoch {record.epoch:3}/{self.epochs}  {train}  "
            f"val loss {record.val_loss:.3f} accuracy {record.val_accuracy:7.2%}{' *' if record.is_best else '  '}  "
            f"{record.images_per_second:6,.0f} images/s  {record.seconds:5.1f} s"
        )

    def noted(self, line: str) -> None:
        self._print(line)

    def _update(self, description: str, completed: int, total: int | None) -> None:
        if self.task is None:
            self.task = self.bar.add_task(description, total=total)
        self.bar.update(self.task, description=description, completed=completed, total=total)

    def _print(self, line: str) -> None:
        self.bar.console.print(line, soft_wrap=True, highlight=False, markup=False)
