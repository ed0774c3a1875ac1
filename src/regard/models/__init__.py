"""Backbones by name."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from regard.checkpoint import SUFFIXES, LoadReport, State, detect_namings
from regard.errors import OptionError
from regard.models._backbone import Backbone
from regard.models._convert import ConvertReport, convert_checkpoint
from regard.models._families import FAMILIES, MODELS, NAMINGS, family_of
from regard.models._identify import Identity, identify, variants_of
from regard.models._loading import HUB_ID, configure, load_read, load_weights, read, save_weights
from regard.models._meta import on_meta
from regard.models._timm import register_with_timm
from regard.models._variant import Variant, Weights
from regard.models.cait import Cait
from regard.models.dinat_s import DinatS
from regard.models.fields import override
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
    **overrides: object,
) -> Backbone[Any]:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        weights: None for random weights; a key of `MODELS[name].weights`, such as "official", "timm" or "hf", for
            published ones; or a file, a URL, a hub id or a state dict, as in `load_weights`.
        num_classes: number of logits; 0 for pooled features; None for that of the published weights. Published weights
            get a new classifier if the number differs.
        in_chans: channels of the images.
        **overrides: fields of the family's configuration with other values than the variant's, such as `depths` or
            `drop_path_rate`.

    Returns:
        The model, in training mode, with the `preprocessing` of its weights.

    Raises:
        OptionError: an unknown model, weights or field, with suggestions, or a value of another type.
        ShapeError: fields that do not fit together.
        CheckpointError: weights that cannot be downloaded, or do not fit the model.

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
        with on_meta():
            namings = detect_namings(source.state, family(config))
        config = configure(name, config, namings[0], source, overrides)
        model = family(config, num_classes=classes, in_chans=in_chans)
        is_replaced = published is not None and classes != variant.num_classes
        load_read(model, source, new_classifier=is_replaced or not classes, namings=namings)
    preprocessing = published.preprocessing if published is not None else variant.preprocessing
    if "img_size" in overrides:
        preprocessing = replace(preprocessing, image_size=config.img_size)
    model.preprocessing = preprocessing
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a pattern with `*` and `?`.

    Example:
        >>> list_models("swiftformer_l?")
        ['swiftformer_l1', 'swiftformer_l3']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def _published(name: str, weights: str | Path | State | None) -> Weights | None:
    """Return the published weights of a key; None for a file, a URL, a hub id or a state dict."""
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
    "NAMINGS",
    "Backbone",
    "Cait",
    "ConvertReport",
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
    "convert_checkpoint",
    "create_model",
    "identify",
    "list_models",
    "load_weights",
    "register_with_timm",
    "save_weights",
    "variants_of",
]
