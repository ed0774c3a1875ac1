"""`regard eval`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from regard import training
from regard.cli.runs import open_run
from regard.cli.tables import Table, show


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Another source with the same classes.", show_default="the run's test images")
    ] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a run: loss, accuracy, and accuracy per class.

    Example: regard eval runs/digits
    """
    score = training.evaluate(open_run(run), data, skip_broken=skip_broken)
    if as_json:
        typer.echo(json.dumps(asdict(score)))
        return
    numbers = ("images", "correct", "accuracy")
    table = Table("class", *numbers, title=f"{run}: accuracy per class", whole=("class",), right=numbers)
    for each in score.classes:
        table.add(each.name, str(each.images), str(each.correct), f"{each.accuracy:.2%}")
    show(table)
    top5 = "" if score.top5 is None else f"  top-5 {score.top5:.2%}"
    typer.echo(f"{score.images} images  loss {score.loss:.4f}  top-1 {score.top1:.2%}{top5}")
