"""`regard eval`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from regard import training
from regard.cli.inference import (
    AsJson,
    Classes,
    Device,
    Model,
    Weights,
    Workers,
    find_model,
    read_classes,
)
from regard.cli.tables import Table, show
from regard.training import Evaluation
from regard.training.confusion import check_picture, draw
from regard.training.output import writing

MAX_ROWS = 50  # classes of the table that is shown by default


def evaluate(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="Source of labeled images, as in `regard train`.", show_default="the run's test images"),
    ] = None,
    weights: Weights = None,
    classes: Classes = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    knn: Annotated[
        int | None, typer.Option(metavar="K", help="Also classify by the K nearest training images.")
    ] = None,
    per_class: Annotated[
        bool | None,
        typer.Option("--per-class/--no-per-class", help="Show the classes.", show_default=f"up to {MAX_ROWS} classes"),
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the confusion matrix into a .png, .pdf or .svg file.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per call of the model.", show_default="the run's, else 64")
    ] = None,
    workers: Workers = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model: loss, accuracy, calibration, accuracy per class, confusions, images per second.

    Example: regard eval runs/digits
    """
    names = read_classes(classes)
    if confusion is not None:
        check_picture(confusion)
    with nullcontext() if confusion is None else writing(confusion) as unfinished:
        score = training.evaluate(
            find_model(model, weights),
            data,
            weights=weights,
            classes=names,
            skip_broken=skip_broken,
            knn=knn,
            batch_size=batch_size,
            workers=workers,
            device=device,
        )
        if confusion is not None and unfinished is not None:
            draw(score.confusion, f"{model}: {score.top1:.2%} of {score.images} images", unfinished, confusion.suffix)
    if as_json:
        typer.echo(json.dumps(as_record(score)))
        return
    if per_class or (per_class is None and len(score.classes) <= MAX_ROWS):
        show(_per_class(score, model))
    typer.echo(_summarize(score, knn))


def as_record(score: Evaluation) -> dict[str, Any]:
    """Return an evaluation in the types of JSON."""
    return {
        "images": score.images,
        "loss": score.loss,
        "top1": score.top1,
        "top5": score.top5,
        "ece": score.ece,
        "knn": score.knn,
        "images_per_second": score.images_per_second,
        "classes": [{"name": each.name, "images": each.images, "correct": each.correct} for each in score.classes],
        "confusions": [
            {"class": name, "predicted": predicted, "images": images}
            for name, predicted, images in score.confusion.errors()
        ],
    }


def _per_class(score: Evaluation, model: str) -> Table:
    numbers = ("images", "correct", "accuracy")
    table = Table("class", *numbers, title=f"{model}: accuracy per class", whole=("class",), right=numbers)
    for each in score.classes:
        table.add(each.name, str(each.images), str(each.correct), f"{each.accuracy:.2%}")
    return table


def _summarize(score: Evaluation, knn: int | None) -> str:
    parts = [f"{score.images} images", f"loss {score.loss:.4f}", f"top-1 {score.top1:.2%}"]
    parts += [] if score.top5 is None else [f"top-5 {score.top5:.2%}"]
    parts += [] if score.knn is None else [f"{knn}-nearest-neighbor {score.knn:.2%}"]
    return "  ".join([*parts, f"ECE {score.ece:.4f}", f"{score.images_per_second:,.0f} images/s"])
