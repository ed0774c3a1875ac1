"""`regard demo`."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard.cli.predict import write_classes
from regard.cli.train import train_with_bar
from regard.training import TrainConfig, evaluate, open_source, predict
from regard.training.data import load

MODELS = ("swiftformer_nano", "nat_nano")
GOAL = 0.97
SEED = 0


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
) -> None:
    """Train two small networks on handwritten digits, evaluate them and let them read; exit code 1 below 97 %.

    Example: regard demo --out runs/demo
    """
    # Networks this small gain little from more threads, and on a busy machine threads wait for one another for minutes.
    torch.set_num_threads(1)
    results = Table("network", "test accuracy", "training", "run", title=f"digits, seed {SEED}, goal {GOAL:.0%}")
    missed = []
    for name in MODELS:
        config = TrainConfig(
            model=name, data="digits", out=out / name, epochs=epochs, lr=3e-3, seed=SEED, device="cpu", overwrite=True
        )
        began = perf_counter()
        run = train_with_bar(config)
        seconds = perf_counter() - began
        accuracy = evaluate(run.path).top1
        results.add_row(name, f"{accuracy:.2%}", f"{seconds:.0f} s", escape(str(run.path)))
        missed += [name] if accuracy < GOAL else []
    Console().print(_read(out), results)
    typer.echo("each run holds weights.safetensors, config.json, metrics.jsonl and curve.png")
    if missed:
        typer.echo(f"missed the goal of {GOAL:.0%}: {', '.join(missed)}", err=True)
        raise typer.Exit(1)


def _read(out: Path) -> Table:
    """Let the networks read some test digits from files."""
    files = _write_digits(out / "digits")
    readings = [predict(out / name, files, top=2) for name in MODELS]
    table = Table("image", *(f"{name} reads" for name in MODELS), title="test digits, as files named by the digit")
    for file, *seen in zip(files, *readings, strict=True):
        table.add_row(escape(str(file)), *map(write_classes, seen))
    return table


def _write_digits(folder: Path) -> list[Path]:
    """Write the first test image of every third digit as a PNG file, named by the digit."""
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source("digits")
    files = []
    for digit in range(0, 10, 3):
        image = next(image for image, label in source.test if label == digit)
        files.append(folder / f"{source.classes[digit]}.png")
        load(image).save(files[-1])
    return files
