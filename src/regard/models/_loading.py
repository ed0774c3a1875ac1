"""From a published name, a URL, a file or a state dict to a model's weights, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from regard.checkpoint import (
    HUB_FILES,
    OWN,
    SUFFIXES,
    LoadReport,
    State,
    bare,
    fetch,
    fields_to_keep,
    load_fields,
    load_state,
    load_state_into,
    save_state,
    state_in,
    unwrap,
    warn_of,
)
from regard.errors import CheckpointError
from regard.models._identify import identify

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def load_weights(
    model: nn.Module, source: str | Path | State, *, ema: bool = False, new_classifier: bool = False
) -> LoadReport:
    """Load a checkpoint into a model, whoever named its tensors.

    The naming is recognized by the tensors' names, wrappers and prefixes are taken off, and every tensor is accounted
    for; see `LoadReport`. Position embeddings and bias tables of another input size are interpolated, and the first
    convolution is fitted to the model's `in_chans`.

    Args:
        model: a model of this package, or any module whose own names the checkpoint has.
        source: a .safetensors, .pth, .pt or .bin file, its URL, `owner/name` on the Hugging Face hub, or a state dict.
            Files of others are read as plain tensors; code that they may carry does not run.
        ema: whether to take the averaged weights of a training script's file.
        new_classifier: whether the classifier keeps its own values, for other classes than the checkpoint's.

    Returns:
        What was done.

    Raises:
        CheckpointError: a file that cannot be fetched or read; tensors that are missing, left over, misshapen, of
            another kind, without values, or not finite in the model's dtype. It says what the checkpoint looks like.
            The model is then as it was.

    Example:
        >>> from regard.models import create_model
        >>> trained, model = create_model("nat_nano"), create_model("nat_nano", num_classes=10)
        >>> print(load_weights(model, trained.state_dict(), new_classifier=True))
        92 tensors from the state dict in the naming of regard; 2 kept: head.weight, head.bias
    """
    return load_read(model, read(source, ema=ema), new_classifier=new_classifier)


class Read(NamedTuple):
    """A source's tensors, what messages call it, and what its file says of the model's configuration."""

    state: State
    where: str
    fields: Mapping[str, Any]


def read(source: str | Path | State, *, ema: bool = False) -> Read:
    """Read the tensors of a source, fetching it where it is elsewhere."""
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


def load_read(model: nn.Module, source: Read, *, new_classifier: bool) -> LoadReport:
    """Fill a model from tensors that were read."""
    model = bare(model)
    classifiers = getattr(model, "classifiers", ()) if new_classifier else ()
    keep = [f"{name}.{kind}" for name in classifiers for kind in ("weight", "bias")]
    warn_of(source.fields, model, f"{source.where} was")
    try:
        return load_state_into(model, source.state, source.where, keep=keep)
    except CheckpointError as error:
        looks = identify(source.state)
        known = "" if looks is None else f"\nThis is {looks}"
        raise CheckpointError(f"{error}{known}") from error


def save_weights(model: nn.Module, path: str | Path, *, naming: str = OWN.name) -> None:
    """Write a model's tensors to a file, in any naming that the model has; it appears complete or not at all.

    Args:
        model: any module, also compiled or in torch's data-parallel wrappers.
        path: .safetensors; or .pth, .pt or .bin, for those who read nothing else.
        naming: "regard", "official", "timm" or "hf": whose code is to read it.

    Raises:
        CheckpointError: another suffix, a place that cannot be written to, or a model that would compute something else
            in that naming's code.
        OptionError: a naming that the model does not have.
    """
    save_state(state_in(model, naming), path, fields_to_keep(model))
