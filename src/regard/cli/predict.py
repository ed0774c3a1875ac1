"""`regard predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from regard import training
from regard.cli.runs import open_run
from regard.cli.tables import Table, show
from regard.training import Prediction


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(help="Number of classes to show per image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the classes of image files; exit code 2 if some cannot be read.

    Example: regard predict runs/digits photo.png --top 3
    """
    predictions = training.predict(open_run(run), images, top=top)
    good = [prediction for prediction in predictions if prediction.error is None]
    if as_json:
        typer.echo(json.dumps([as_record(prediction) for prediction in predictions]))
    elif good:
        table = Table("image", "classes", whole=("image",))
        for prediction in good:
            table.add(str(prediction.image), format_classes(prediction))
        show(table)
    errors = [prediction.error for prediction in predictions if prediction.error is not None]
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(2)


def as_record(prediction: Prediction) -> dict[str, object]:
    """Return a prediction in the types of JSON."""
    return {
        "image": str(prediction.image),
        "classes": [{"name": name, "probability": probability} for name, probability in prediction.classes],
        "error": None if prediction.error is None else str(prediction.error),
    }


def format_classes(prediction: Prediction) -> str:
    """Return the classes of a prediction and their probabilities as text."""
    return "  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes)
