"""Loading and saving: from a URL, a hub id, a file or a state dict to a model's weights, and back to a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from regard.checkpoint import (
    HUB_FILES,
    OWN,
    SUFFIXES,
    LoadReport,
    Naming,
    State,
    declarations,
    export_state,
    fetch,
    fields_to_store,
    load_fields,
    load_state,
    load_state_into,
    save_state,
    unwrap,
    unwrap_model,
    warn_of_requirements,
)
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models._identify import identify
from regard.models.fields import ConfigT, override

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def load_weights(
    model: nn.Module, source: str | Path | State, *, ema: bool = False, new_classifier: bool = False
) -> LoadReport:
    """Load a checkpoint into a model, in any of the model's namings.

    The naming is detected by the tensors' names, wrappers and prefixes are removed, and every tensor is accounted for;
    see `LoadReport`. Position embeddings and bias tables of another input size are interpolated, and the first
    convolution is adapted to the model's `in_chans`.

    Args:
        model: a model of this package, or any module whose own names the checkpoint has.
        source: a .safetensors, .pth, .pt or .bin file, its URL, `owner/name` on the Hugging Face hub, or a state dict.
            Files are read as plain tensors: code in them does not run.
        ema: whether to take the averaged weights of a training script's file.
        new_classifier: whether the classifier keeps its own values, for other classes than the checkpoint's.

    Returns:
        The naming, and how many tensors were filled, resized, kept and ignored.

    Raises:
        CheckpointError: a file that cannot be downloaded or read; tensors that are missing, left over, of another shape
            or kind, without values, or not finite in the model's dtype. The message names the family that the
            checkpoint belongs to. The model does not change.

    Example:
        >>> from regard.models import create_model
        >>> trained, model = create_model("nat_nano"), create_model("nat_nano", num_classes=10)
        >>> print(load_weights(model, trained.state_dict(), new_classifier=True))
        92 tensors from the state dict in the naming of regard; 2 kept: head.weight, head.bias
    """
    return load_read(model, read(source, ema=ema), new_classifier=new_classifier)


class Read(NamedTuple):
    """The tensors of a source, its name in messages, and the configuration fields that its file stores."""

    state: State
    where: str
    fields: Mapping[str, Any]


def read(source: str | Path | State, *, ema: bool = False) -> Read:
    """Read the tensors of a source, after a download if it is a URL or a hub id."""
    if isinstance(source, Mapping):
        return Read(unwrap(source, ema=ema), "the state dict", {})
    if not isinstance(source, str | Path):
        raise TypeError(f"weights must be a file, a URL, a hub id or a state dict, got {type(source).__name__}")
    text = str(source)
    path = Path(source)
    if "://" in text:
        path = fetch(text)
    elif HUB_ID.fullmatch(text) and not path.exists() and path.suffix not in SUFFIXES:
        path = fetch(f"hf://{text}")
    elif path.is_dir():  # as from_pretrained reads it
        path = next((path / name for name in HUB_FILES if (path / name).is_file()), path)
    return Read(load_state(path, ema=ema), text, load_fields(path))


def configure(name: str, config: ConfigT, naming: Naming, source: Read, overrides: Mapping[str, object]) -> ConfigT:
    """Return a configuration with the fields that a checkpoint was trained with, unless the caller overrides them.

    Raises:
        CheckpointError: fields in the file that the model does not have.
    """
    required = {**naming.requires, **source.fields}
    try:
        return override(name, config, {field: value for field, value in required.items() if field not in overrides})
    except (OptionError, ShapeError) as error:
        raise CheckpointError(
            f"the configuration fields in {source.where} do not fit {name}: {error}{_described(source)}"
        ) from None


def load_read(
    model: nn.Module, source: Read, *, new_classifier: bool, namings: Sequence[Naming] | None = None
) -> LoadReport:
    """Fill a model from the tensors of a source; `namings` is the result of `detect_namings`, if there is one."""
    model = unwrap_model(model)
    classifiers = declarations(model).classifiers if new_classifier else ()
    keep = [f"{name}.{kind}" for name in classifiers for kind in ("weight", "bias")]
    warn_of_requirements(source.fields, model, f"{source.where} was")
    try:
        return load_state_into(model, source.state, source.where, keep=keep, namings=namings)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_described(source)}") from None


def save_weights(model: nn.Module, path: str | Path, *, naming: str = OWN.name) -> None:
    """Write a model's tensors to a file, in any of the model's namings; it appears complete or not at all.

    Args:
        model: any module, also compiled or in torch's data-parallel wrappers.
        path: .safetensors, or .pth, .pt or .bin for programs that read nothing else.
        naming: "regard", or the naming of the code that will read the file: "official", "timm" or "hf".

    Raises:
        CheckpointError: another suffix, a place that cannot be written to, or a model whose outputs would differ in
            that code.
        OptionError: a naming that the model does not have.
    """
    save_state(export_state(model, naming), path, fields_to_store(model))


def _described(source: Read) -> str:
    identity = identify(source.state)
    return "" if identity is None else f"\nThis is {identity}"
