"""`regard models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard.errors import OptionError
from regard.models import MODELS, Preprocessing, list_models


def models(
    pattern: Annotated[str, typer.Argument(help="Part of the names, or a pattern with * and ?.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models: sizes, published accuracy and weights; all that is known where one model matches.

    MACs are multiply-adds for one image of the size beside them.

    Example: regard models "nat_*"
    """
    names = list_models(pattern) or list_models(f"*{pattern}*")
    if not names:
        raise OptionError.unknown("model", pattern, MODELS)
    if as_json:
        typer.echo(json.dumps([as_record(name) for name in names]))
        return
    console = Console()
    console.print(_listing(names))
    if len(names) == 1:
        console.print(_config(names[0]))
        if MODELS[names[0]].weights:
            console.print(_weights(names[0]))


def as_record(name: str) -> dict[str, Any]:
    """Write what is known of a model in JSON's types."""
    return {"name": name, **asdict(MODELS[name]), "top1": MODELS[name].top1}


def _listing(names: list[str]) -> Table:
    table = Table(box=None)  # 80 columns hold it
    table.add_column("model", no_wrap=True)
    for heading in ("params", "MACs", "at", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", overflow="fold")
    for name in names:
        variant = MODELS[name]
        table.add_row(
            name,
            f"{variant.parameters / 1e6:.2f} M",
            f"{variant.gmacs} G",
            f"{variant.image_size} px",
            _percent(variant.top1),
            " ".join(variant.weights),
        )
    return table


def _config(name: str) -> Table:
    table = Table("field", "value", title=f"config of {name}")
    for field, value in asdict(MODELS[name].config).items():
        table.add_row(field, escape(str(value)))
    return table


def _weights(name: str) -> Table:
    table = Table(title=f"weights of {name}: create_model({name!r}, weights=WORD)")
    for heading in ("word", "top-1", "license"):
        table.add_column(heading, no_wrap=True)
    table.add_column("source", overflow="fold")
    table.add_column("preprocessing", overflow="fold")
    for word, weights in MODELS[name].weights.items():
        preprocessing = _written(weights.preprocessing)
        table.add_row(word, _percent(weights.top1), weights.license, escape(weights.source), escape(preprocessing))
    return table


def _percent(top1: float | None) -> str:
    return "" if top1 is None else f"{top1:.1f} %"


def _written(preprocessing: Preprocessing) -> str:
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    size = f"{preprocessing.image_size} px, crop {preprocessing.crop_pct:.3g} {preprocessing.crop_mode}"
    return f"{size}, {preprocessing.interpolation}, mean {mean}, std {std}"
