"""`regard models`."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard.errors import OptionError
from regard.models import MODELS, create_model, list_models


def models(
    pattern: Annotated[str, typer.Argument(help="Part of the names, or a pattern with * and ?.")] = "*",
) -> None:
    """List the models: parameters, family and what their config starts with; all of it where one model matches.

    Example: regard models "nat_*"
    """
    names = list_models(pattern) or list_models(f"*{pattern}*")
    if not names:
        raise OptionError.unknown("model", pattern, MODELS)
    table = Table()
    table.add_column("model", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("family", no_wrap=True)
    table.add_column("config", overflow="fold")
    for name in names:
        with torch.device("meta"):
            model = create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        table.add_row(
            name,
            f"{parameters / 1e6:.2f} M",
            type(model).__name__,
            escape(_summary(MODELS[name], whole=len(names) == 1)),
        )
    Console().print(table)


def _summary(config: Any, *, whole: bool) -> str:  # noqa: ANN401  # every family has its own
    shown = fields(config) if whole else fields(config)[:2]  # width and depth come first
    values = ((field.name, getattr(config, field.name)) for field in shown)
    return " ".join(f"{name}={str(value).replace(' ', '')}" for name, value in values)
