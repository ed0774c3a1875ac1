"""`regard eval`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard import training


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Another source with the same classes.", show_default="the run's test images")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run: loss, accuracy, and accuracy by class.

    Example: regard eval runs/digits
    """
    score = training.evaluate(run, data)
    if as_json:
        typer.echo(json.dumps(asdict(score)))
        return
    table = Table("class", title=f"{escape(str(run))}: accuracy by class")
    table.add_column("images", justify="right")
    table.add_column("correct", justify="right")
    table.add_column("accuracy", justify="right")
    for each in score.classes:
        table.add_row(escape(each.name), str(each.images), str(each.correct), f"{each.accuracy:.2%}")
    Console().print(table)
    top5 = "" if score.top5 is None else f"  top-5 {score.top5:.2%}"
    typer.echo(f"{score.images} images  loss {score.loss:.4f}  top-1 {score.top1:.2%}{top5}")
