"""`regard convert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from regard.checkpoint import State, detect_naming, fields_to_keep, load_fields, load_state, save_state, state_in
from regard.cli.options import parse_override
from regard.errors import CheckpointError, OptionError
from regard.models import Backbone, create_model, variants_of
from regard.models._loading import Read, load_read

NAMINGS = ("official", "timm", "hf", "hf5", "regard")


def convert(
    file: Annotated[
        Path, typer.Argument(help="A .safetensors, .pth, .pt or .bin file in any naming.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="Whose names: official, timm, hf or regard; some models have hf5 too.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="beside FILE: NAME.TO.safetensors")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model it is.", show_default="recognized by names and shapes")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights of a training script's file.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the model's config.")
    ] = None,
) -> None:
    """Write a checkpoint as somebody else's code names its tensors.

    The model is built with the classes and channels of the checkpoint, and every tensor is accounted for. Values do not
    change, but are written in float32.

    Example: regard convert swin.pth --to timm
    """
    if to not in NAMINGS:
        raise OptionError.unknown("naming", to, NAMINGS)
    out = file.with_name(f"{file.stem}.{to}.safetensors") if out is None else out
    if out.exists():
        raise CheckpointError(f"{out} exists and is not replaced; name another with --out, or remove it")
    state = load_state(file, ema=ema)
    fields = dict(map(parse_override, overrides)) if overrides else {}
    names = [name for name, _ in variants_of(state)] if model is None else [model]
    built = {name: _model_of(name, state, fields, load_fields(file)) for name in names}
    _check_that_all_agree(file, to, built)
    name, network = next(iter(built.items()))
    read = Read(state, str(file), load_fields(file))
    report = load_read(network.to_empty(device="cpu"), read, new_classifier=False)
    converted = state_in(network, to)
    save_state(converted, out, fields_to_keep(network))
    typer.echo(f"{name}: {report}; wrote {len(converted)} tensors to {out} in the naming of {to}")


def _model_of(name: str, state: State, fields: Mapping[str, Any], stored: Mapping[str, Any]) -> Backbone:
    """Build a model on the meta device with the classes and channels of a checkpoint, and what its naming requires."""
    with torch.device("meta"):
        like = create_model(name, **fields)
        naming = detect_naming(state, like)
        classifier, first = (
            state.get(naming.sources(f"{layer}.weight")[0].name) for layer in (like.classifiers[0], like.first_conv)
        )
        return create_model(
            name,
            num_classes=0 if classifier is None else len(classifier),
            in_chans=like.in_chans if first is None or first.ndim != 4 else first.shape[1],
            **{**naming.requires, **stored, **fields},
        )


def _check_that_all_agree(file: Path, to: str, built: Mapping[str, Backbone]) -> None:
    """Check that the tensors get the same names, whichever of the models it is."""
    namings = {
        tuple((name, tuple(tensor.shape)) for name, tensor in state_in(each, to).items()) for each in built.values()
    }
    if len(namings) > 1:
        raise CheckpointError(
            f"{file} may be of {' or '.join(built)}, whose tensors have other names in the naming of {to}; say which "
            "one it is with --model"
        )
