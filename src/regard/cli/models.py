"""`regard models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from regard.cli.tables import Table, show
from regard.errors import OptionError
from regard.models import MODELS, Preprocessing, list_models


def models(
    pattern: Annotated[str, typer.Argument(help="Part of the names, or a pattern with * and ?.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models with their size, published accuracy and weights. If only one model matches, show all details.

    Mparams are millions of parameters, GMACs billions of multiply-adds for one image with sides of px pixels, and
    top1 is the accuracy on ImageNet-1k in percent.

    Example: regard models "nat_*"
    """
    names = list_models(pattern) or list_models(f"*{pattern}*")
    if not names:
        raise OptionError.unknown("model", pattern, MODELS)
    if as_json:
        typer.echo(json.dumps([as_record(name) for name in names]))
        return
    tables = [_listing(names)]
    if len(names) == 1:
        tables.append(_config(names[0]))
        if MODELS[names[0]].weights:
            tables.append(_weights(names[0]))
    show(*tables)


def as_record(name: str) -> dict[str, Any]:
    """Return the details of a model in the types of JSON."""
    return {"name": name, **asdict(MODELS[name]), "top1": MODELS[name].top1}


def _listing(names: list[str]) -> Table:
    numbers = ("Mparams", "GMACs", "px", "top1")
    table = Table("model", *numbers, "weights", whole=("model",), right=numbers)
    for name in names:
        variant = MODELS[name]
        table.add(
            name,
            f"{variant.parameters / 1e6:.2f}",
            f"{variant.gmacs}",
            f"{variant.image_size}",
            _percent(variant.top1),
            " ".join(variant.weights),
        )
    return table


def _config(name: str) -> Table:
    table = Table("field", "value", title=f"config of {name}")
    for field, value in asdict(MODELS[name].config).items():
        table.add(field, str(value))
    return table


def _weights(name: str) -> Table:
    headings = ("word", "top-1", "license", "source", "preprocessing")
    table = Table(*headings, title=f"weights of {name}: create_model({name!r}, weights=WORD)", whole=headings[:3])
    for word, weights in MODELS[name].weights.items():
        table.add(word, _percent(weights.top1), weights.license, weights.source, _describe(weights.preprocessing))
    return table


def _percent(top1: float | None) -> str:
    return "" if top1 is None else f"{top1:.1f}"


def _describe(preprocessing: Preprocessing) -> str:
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    size = f"{preprocessing.image_size} px, crop {preprocessing.crop_pct:.3g} {preprocessing.crop_mode}"
    return f"{size}, {preprocessing.interpolation}, mean {mean}, std {std}"
