"""`regard demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer

from regard.cli.predict import format_classes
from regard.cli.tables import Table, show
from regard.cli.train import train_with_bar
from regard.training import TrainConfig, evaluate, open_source, predict
from regard.training.data import load

MODELS = ("swiftformer_nano", "nat_nano")
GOAL = 0.97
SEED = 0


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
) -> None:
    """Train two small models on handwritten digits, evaluate them and use them; exit code 1 below 97 %.

    Example: regard demo --out runs/demo
    """
    # Models this small gain little from more threads, and on a busy machine threads wait for each other for minutes.
    torch.set_num_threads(1)
    headings = ("model", "test accuracy", "training", "run")
    results = Table(*headings, title=f"digits, seed {SEED}, goal {GOAL:.0%}", whole=headings, right=headings[1:3])
    missed = []
    for name in MODELS:
        config = TrainConfig(
            model=name, data="digits", out=out / name, epochs=epochs, lr=3e-3, seed=SEED, device="cpu", overwrite=True
        )
        start = perf_counter()
        run = train_with_bar(config)
        seconds = perf_counter() - start
        accuracy = evaluate(run).top1
        results.add(name, f"{accuracy:.2%}", f"{seconds:.0f} s", str(run.path))
        missed += [name] if accuracy < GOAL else []
    files = _write_digits(out / "digits")
    show(_predictions(out, files), results)
    typer.echo("\nEach run holds weights.safetensors, config.json, metrics.jsonl and curve.png.")
    if missed:
        typer.echo(f"failed: expected a test accuracy of at least {GOAL:.0%}, missed by {', '.join(missed)}", err=True)
        raise typer.Exit(1)
    typer.echo("passed")
    typer.echo(f"next: {_program()} predict {out / MODELS[-1]} {files[0]} --top 3")


def _program() -> str:
    """Return how to call this program from the current shell."""
    found = shutil.which("regard")
    is_on_path = found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve()
    return "regard" if is_on_path or Path(sys.argv[0]).name != "regard" else sys.argv[0]


def _predictions(out: Path, files: list[Path]) -> Table:
    """Return the predictions of the models for some test digits in files."""
    predictions = [predict(out / name, files, top=2) for name in MODELS]
    title = "predictions for test digits; the name of a file is its digit"
    table = Table("image", *MODELS, title=title, whole=("image",))
    for file, *found in zip(files, *predictions, strict=True):
        table.add(str(file), *map(format_classes, found))
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
