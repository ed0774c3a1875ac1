"""Backbones by name."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from regard.checkpoint import SUFFIXES, LoadReport, State, detect_naming
from regard.errors import OptionError
from regard.models._backbone import Backbone
from regard.models._families import FAMILIES, MODELS, family_of
from regard.models._fields import override
from regard.models._identify import Identity, identify, variants_of
from regard.models._loading import HUB_ID, load_read, load_weights, read, save_weights
from regard.models._timm import register_with_timm
from regard.models._variant import Variant, Weights
from regard.models.cait import Cait
from regard.models.dinat_s import DinatS
from regard.models.mobilevitv2 import MobileVitV2
from regard.models.nat import Nat
from regard.models.nat_isotropic import NatIsotropic
from regard.models.preprocessing import Preprocessing
from regard.models.swiftformer import SwiftFormer
from regard.models.swin import Swin
from regard.models.vit import Vit


def create_model(
    name: str,
    *,
    weights: str | Path | State | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    **overrides: Any,  # noqa: ANN401
) -> Backbone:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        weights: which weights it starts with: random ones if None; published ones by their word in
            `MODELS[name].weights`, such as "official", "timm" or "hf"; or what `load_weights` takes: a file, a URL, a
            hub id or a state dict.
        num_classes: logits; 0 for pooled features; None for as many as its published weights have. Published weights
            get a new classifier where the number differs.
        in_chans: channels of the images.
        **overrides: fields of the family's configuration that should differ from the variant's, such as `depths` or
            `drop_path_rate`.

    Returns:
        The model, in training mode; its `preprocessing` is that of the weights.

    Raises:
        OptionError: an unknown name, word or field, where the nearest ones are suggested, or a value of another type.
        ShapeError: fields that do not fit together.
        CheckpointError: weights that cannot be fetched, or do not fit the model.

    Example:
        >>> model = create_model("nat_nano", num_classes=10, depths=(1, 1, 1))
        >>> len(model.levels[1].blocks)
        1
    """
    if name not in MODELS:
        raise OptionError.unknown("model", name, MODELS)
    variant, family = MODELS[name], family_of(name)
    config = override(name, variant.config, overrides)
    classes = variant.num_classes if num_classes is None else num_classes
    published = _published(name, weights)
    if weights is None:
        model = family(config, num_classes=classes, in_chans=in_chans)
    else:
        source = read(weights if published is None else published.source)
        with torch.device("meta"):
            required = {**detect_naming(source.state, family(config)).requires, **source.fields}
        config = replace(config, **{field: value for field, value in required.items() if field not in overrides})
        model = family(config, num_classes=classes, in_chans=in_chans)
        replaced = published is not None and classes != variant.num_classes
        load_read(model, source, new_classifier=replaced or not classes)
    preprocessing = published.preprocessing if published is not None else variant.preprocessing
    size = overrides.get("img_size", preprocessing.image_size)
    model.preprocessing = replace(preprocessing, image_size=size)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the models that match a pattern with `*` and `?`.

    Example:
        >>> list_models("swiftformer_l?")
        ['swiftformer_l1', 'swiftformer_l3']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def _published(name: str, weights: str | Path | State | None) -> Weights | None:
    """Look up a word; a file, a URL or a hub id is none."""
    known = MODELS[name].weights
    if not isinstance(weights, str) or weights in known:
        return known[weights] if isinstance(weights, str) else None
    if (
        "://" in weights
        or HUB_ID.fullmatch(weights)
        or Path(weights).suffix.lower() in SUFFIXES
        or Path(weights).exists()
    ):
        return None
    raise OptionError.unknown(f"weights of {name}", weights, (*known, "the path of a file"))


__all__ = [
    "FAMILIES",
    "MODELS",
    "Backbone",
    "Cait",
    "DinatS",
    "Identity",
    "LoadReport",
    "MobileVitV2",
    "Nat",
    "NatIsotropic",
    "Preprocessing",
    "SwiftFormer",
    "Swin",
    "Variant",
    "Vit",
    "Weights",
    "create_model",
    "identify",
    "list_models",
    "load_weights",
    "register_with_timm",
    "save_weights",
    "variants_of",
]
