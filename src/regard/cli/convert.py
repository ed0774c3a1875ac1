"""`regard convert`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from regard.checkpoint import join
from regard.cli.options import parse_override
from regard.cli.runs import open_run
from regard.errors import DataError
from regard.models import NAMINGS, convert_checkpoint
from regard.training.run import CONFIG, WEIGHTS


def convert(
    file: Annotated[
        Path, typer.Argument(help="A .safetensors, .pth, .pt or .bin file in any naming.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help=f"The naming of the new file: {join(NAMINGS)}; no model has all of them.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="beside FILE: NAME.TO.safetensors")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The name of the model.", show_default="recognized by names and shapes")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights of a training script's file.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the model's config.")
    ] = None,
) -> None:
    """Write a checkpoint with the tensor names of another library.

    The model is built with the classes and channels of the checkpoint, and every tensor is accounted for. Values do not
    change, but are written in float32.

    Example: regard convert swin.pth --to timm
    """
    if file.name == WEIGHTS and (file.parent / CONFIG).is_file():
        with suppress(DataError):  # the folder of another program
            open_run(file.parent)  # warns if its training did not finish
    target = file.with_name(f"{file.stem}.{to}.safetensors") if out is None else out
    fields = dict(map(parse_override, overrides)) if overrides else {}
    typer.echo(convert_checkpoint(file, target, to, model=model, ema=ema, **fields))
