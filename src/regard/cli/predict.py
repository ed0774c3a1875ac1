"""`regard predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard import training
from regard.training import Prediction


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(help="How many classes to show per image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the classes of image files; exit code 2 if some cannot be read.

    Example: regard predict runs/digits photo.png --top 3
    """
    predictions = training.predict(run, images, top=top)
    good = [prediction for prediction in predictions if prediction.error is None]
    if as_json:
        typer.echo(json.dumps([as_record(prediction) for prediction in predictions]))
    elif good:
        table = Table()
        table.add_column("image", overflow="fold")
        table.add_column("classes")
        for prediction in good:
            table.add_row(escape(str(prediction.image)), write_classes(prediction))
        Console().print(table)
    errors = [prediction.error for prediction in predictions if prediction.error is not None]
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(2)


def as_record(prediction: Prediction) -> dict[str, object]:
    """Write a prediction in JSON's types."""
    return {
        "image": str(prediction.image),
        "classes": [{"name": name, "probability": probability} for name, probability in prediction.classes],
        "error": None if prediction.error is None else str(prediction.error),
    }


def write_classes(prediction: Prediction) -> str:
    """Write the classes of a prediction and their probabilities, safe from being read as rich's markup."""
    return escape("  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes))
