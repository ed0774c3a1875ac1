"""Backbones by name."""

from __future__ import annotations

from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from regard.checkpoint import State, load_weights, save_weights
from regard.errors import OptionError
from regard.models._backbone import Backbone
from regard.models.nat import Nat
from regard.models.swiftformer import SwiftFormer

FAMILIES: tuple[type[Backbone], ...] = (SwiftFormer, Nat)

MODELS: dict[str, Any] = {name: config for family in FAMILIES for name, config in family.variants.items()}
"""The configuration of every model, by name."""


def create_model(
    name: str,
    *,
    weights: str | Path | State | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    **overrides: Any,  # noqa: ANN401
) -> Backbone:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        weights: a checkpoint to load: a file or a state dict, see `load_weights`; random weights if None.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.
        **overrides: fields of the family's configuration that should differ from the variant's, such as `depths` or
            `drop_path_rate`.

    Raises:
        OptionError: an unknown name or field, where the nearest ones are suggested, or a value of another type.
        ShapeError: fields that do not fit together.
        CheckpointError: weights that do not fit the model.

    Example:
        >>> model = create_model("nat_nano", num_classes=10, depths=(1, 1, 1))
        >>> len(model.levels[1].blocks)
        1
    """
    if name not in MODELS:
        raise OptionError.unknown("model", name, MODELS)
    valid = [field.name for field in fields(MODELS[name])]
    for option in overrides:
        if option not in valid:
            raise OptionError.unknown(f"option of {name}", option, valid)
    family = next(family for family in FAMILIES if name in family.variants)
    model = family(replace(MODELS[name], **overrides), num_classes=num_classes, in_chans=in_chans)
    if weights is not None:
        load_weights(model, weights)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the models that match a pattern with `*` and `?`.

    Example:
        >>> list_models("swiftformer_l?")
        ['swiftformer_l1', 'swiftformer_l3']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]


__all__ = [
    "FAMILIES",
    "MODELS",
    "Backbone",
    "Nat",
    "SwiftFormer",
    "create_model",
    "list_models",
    "load_weights",
    "save_weights",
]
