"""`regard train`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from regard import training
from regard.cli.options import options_from
from regard.training import Record, Run, Source, TrainConfig, Watcher
from regard.training.run import WEIGHTS


@options_from(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train a model and save the run: weights, config, metrics and a plot of the metrics.

    Example: regard train --model nat_nano --data digits --out runs/digits --epochs 20
    """
    out = Path(config.out)
    before = _saved_at(out)
    try:
        run = train_with_bar(config)
    except KeyboardInterrupt:
        is_saved = _saved_at(out) not in (None, before)  # the weights may be those of an earlier run
        what = "the current weights, the metrics and their plot are in" if is_saved else "nothing was saved in"
        typer.echo(f"interrupted; {what} {out}")
        raise typer.Exit(130) from None
    typer.echo(f"done: {run.path} holds {', '.join(sorted(path.name for path in run.path.iterdir()))}")


def train_with_bar(config: TrainConfig) -> Run:
    """Train a model, with a progress bar on a terminal, and print one line per epoch."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        return training.train(config, watcher=_Bar(bar))


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
        self._print(f"{config.model}: {parameters:,} parameters, seed {config.seed}, run {config.out}")
        self._print(
            f"{config.data}: {len(source.classes)} classes, {len(source.train)} training images, "
            f"{len(source.test)} test images{ignored}{skipped}"
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

    def tested(self, record: Record) -> None:
        self._print(
            f"epoch {record.epoch:3}/{self.epochs}  train loss {record.train_loss:.3f} accuracy "
            f"{record.train_accuracy:7.2%}  test loss {record.test_loss:.3f} accuracy {record.test_accuracy:7.2%}  "
            f"{record.images_per_second:6,.0f} images/s  {record.seconds:5.1f} s"
        )

    def _update(self, description: str, completed: int, total: int | None) -> None:
        if self.task is None:
            self.task = self.bar.add_task(description, total=total)
        self.bar.update(self.task, description=description, completed=completed, total=total)

    def _print(self, line: str) -> None:
        self.bar.console.print(line, soft_wrap=True, highlight=False, markup=False)
