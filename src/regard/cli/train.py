"""`regard train`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from regard import training
from regard.errors import OptionError
from regard.training import Record, Run, Source, TrainConfig, Watcher
from regard.training.run import WEIGHTS

WORDS = {"true": True, "false": False, "none": None}


def train(
    model: Annotated[str, typer.Option(help="A name from `regard models`.")],
    data: Annotated[str, typer.Option(help="'digits', or a folder with one sub-folder of images per class.")],
    out: Annotated[Path, typer.Option(help="The folder to write the run into.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.05,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs until the peak learning rate.")] = 2.0,
    label_smoothing: Annotated[float, typer.Option(help="Of the training loss.")] = 0.1,
    color_jitter: Annotated[float, typer.Option(help="Strength of color jitter; folders only.")] = 0.0,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels.", show_default="digits 8, else 224; 56 for nano")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read images.", show_default="digits 0, else up to 4")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or xpu.", show_default="the best there is")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the model's config.")
    ] = None,
) -> None:
    """Train a model and leave a run: weights, config, metrics and a curve.

    Example: regard train --model nat_nano --data digits --out runs/digits --epochs 20
    """
    config = TrainConfig(
        model=model,
        data=data,
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing,
        color_jitter=color_jitter,
        image_size=image_size,
        seed=seed,
        workers=workers,
        device=device,
        mixed_precision=mixed_precision,
        overwrite=overwrite,
        overrides=dict(map(parse_override, overrides)) if overrides else {},
    )
    before = _saved_at(out)
    try:
        run = train_with_bar(config)
    except KeyboardInterrupt:
        saved = _saved_at(out) not in (None, before)  # an earlier run's weights are not this training's
        what = "the weights, metrics and curve so far are in" if saved else "nothing was saved yet in"
        typer.echo(f"interrupted; {what} {out}")
        raise typer.Exit(130) from None
    typer.echo(f"done: {run.path} holds {', '.join(sorted(path.name for path in run.path.iterdir()))}")


def parse_override(text: str) -> tuple[str, Any]:
    """Read FIELD=VALUE; the value is a Python literal, or else a word.

    Example:
        >>> parse_override("depths=2,2"), parse_override("token_norm=layer")
        (('depths', (2, 2)), ('token_norm', 'layer'))
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise OptionError(f"expected --set FIELD=VALUE, got {text!r}; write for example --set depths=1,1,1")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, WORDS.get(value.lower(), value)


def _saved_at(out: Path) -> int | None:
    weights = out / WEIGHTS
    return weights.stat().st_mtime_ns if weights.is_file() else None


def train_with_bar(config: TrainConfig) -> Run:
    """Train with a live bar on a terminal, and a line per epoch anywhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        return training.train(config, watcher=_Bar(bar))


class _Bar(Watcher):
    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = TaskID(0)

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        ignored = f", {source.ignored} files ignored (hidden or no images)" if source.ignored else ""
        self._print(f"{config.model}: {parameters:,} parameters, seed {config.seed}, run {config.out}")
        self._print(
            f"{config.data}: {len(source.classes)} classes, {len(source.train)} images to train on, "
            f"{len(source.test)} to test on{ignored}"
        )
        self.epochs = config.epochs
        self.task = self.bar.add_task("starting", total=None)

    def stepped(self, progress: training.Progress) -> None:
        self.bar.update(
            self.task,
            description=f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"accuracy {progress.accuracy:6.2%}  {progress.images_per_second:,.0f} images/s",
            completed=(progress.epoch - 1) * progress.steps + progress.step,
            total=progress.epochs * progress.steps,
        )

    def tested(self, record: Record) -> None:
        self._print(
            f"epoch {record.epoch:3}/{self.epochs}  train loss {record.train_loss:.3f} accuracy "
            f"{record.train_accuracy:7.2%}  test loss {record.test_loss:.3f} accuracy {record.test_accuracy:7.2%}  "
            f"{record.images_per_second:6,.0f} images/s  {record.seconds:5.1f} s"
        )

    def _print(self, line: str) -> None:
        self.bar.console.print(line, soft_wrap=True, highlight=False, markup=False)
