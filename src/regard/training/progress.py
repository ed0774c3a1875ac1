"""Show how training goes on, on a terminal or in a notebook."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from regard.training.config import TrainConfig
from regard.training.data import Source
from regard.training.processes import expected
from regard.training.watcher import Progress, Record, Watcher


class ProgressBar(Watcher):
    """Print a line per epoch and, on a terminal or in a notebook, show a live bar.

    Example:
        >>> from regard.training import TrainConfig, train
        >>> place = {"data": "digits", "out": getfixture("tmp_path") / "run", "device": "cpu"}
        >>> config = TrainConfig(model="nat_nano", epochs=1, **place)
        >>> _ = train(config, watcher=ProgressBar())  # doctest: +ELLIPSIS
        nat_nano: 448,934 parameters, ...
    """

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
        console = Console()
        is_live = console.is_terminal or console.is_jupyter
        self.bar = Bar(*columns, console=console, transient=True, disable=not is_live)
        self.task: TaskID | None = None

    def checked(self, images: int, total: int) -> None:
        """Show how many images are checked."""
        self._update("checking the images", images, total)

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """Print the model and the data."""
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

    def stepped(self, progress: Progress) -> None:
        """Show the step."""
        self._update(
            f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"accuracy {progress.accuracy:6.2%}  {progress.images_per_second:,.0f} images/s",
            (progress.epoch - 1) * progress.steps + progress.step,
            progress.epochs * progress.steps,
        )

    def validated(self, record: Record) -> None:
        """Print the epoch."""
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
        """Print the line."""
        self._print(line)

    def ended(self) -> None:
        """Remove the bar."""
        self.bar.stop()

    def _update(self, description: str, completed: int, total: int | None) -> None:
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(description, total=total)
        self.bar.update(self.task, description=description, completed=completed, total=total)

    def _print(self, line: str) -> None:
        self.bar.console.print(line, soft_wrap=True, highlight=False, markup=False)
