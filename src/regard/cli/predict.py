"""`regard predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from regard import training
from regard.cli.inference import (
    Actors,
    AsJson,
    BatchSize,
    Classes,
    Device,
    Engine,
    Images,
    Model,
    Weights,
    Workers,
    find_model,
    read_classes,
    report_broken,
)
from regard.cli.tables import Table, show
from regard.errors import OptionError
from regard.exporting import FORMATS
from regard.exporting.serving import serve
from regard.training import Prediction
from regard.training.output import writing
from regard.training.prediction import write_csv


def predict(
    model: Model,
    images: Images,
    weights: Weights = None,
    classes: Classes = None,
    top: Annotated[int, typer.Option(help="Number of classes to show per image.")] = 3,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    device: Device = None,
    engine: Engine = "local",
    actors: Actors = 2,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV file instead of printing a table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the classes of images; exit code 2 if some cannot be read.

    Example: regard predict runs/digits photo.png --top 3
    """
    names = read_classes(classes)
    if _is_exported(model):
        _refuse(model, weights=weights, classes=classes)
    with nullcontext() if csv is None else writing(csv) as unfinished:
        predictions = training.predict(
            serve(model) if _is_exported(model) else find_model(model, weights),
            images,
            weights=weights,
            classes=names,
            top=top,
            batch_size=batch_size,
            workers=workers,
            device=device,
            engine=engine,
            actors=actors,
        )
        if unfinished is not None:
            write_csv(predictions, unfinished)
    if as_json:
        typer.echo(json.dumps([as_record(prediction) for prediction in predictions]))
    elif csv is None:
        _show(predictions)
    report_broken([prediction.error for prediction in predictions if prediction.error is not None])


def _refuse(file: str, **options: object) -> None:
    """Refuse options for what an exported file holds already."""
    for name, value in options.items():
        if value is not None:
            raise OptionError(f"{file!r} is an exported model with {name} of its own; leave out --{name}")


def _is_exported(model: str) -> bool:
    return Path(model).suffix.lower() in FORMATS


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


def _show(predictions: Sequence[Prediction]) -> None:
    table = Table("image", "classes", whole=("image",))
    for prediction in predictions:
        if prediction.error is None:
            table.add(str(prediction.image), format_classes(prediction))
    if table.rows:
        show(table)
