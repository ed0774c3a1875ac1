"""regard's models in timm's registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from regard.checkpoint import convert_state, unwrap
from regard.errors import UnsupportedError
from regard.extras import require
from regard.models._backbone import Backbone
from regard.models._families import MODELS, family_of
from regard.models._variant import Weights
from regard.models.fields import override

PREFIX = "regard_"
default_cfgs: dict[str, Any] = {}  # timm looks for a module's configurations under this name


def register_with_timm() -> list[str]:
    """Register regard's models with timm, so that `timm.create_model("regard_nat_mini", ...)` finds them.

    The names in timm start with `regard_`. Options are `features_only`, `out_indices`, `num_classes`, `in_chans`,
    `global_pool`, `checkpoint_path` and the fields of the configuration. `pretrained=True` downloads the first
    published weights that are not on Google Drive; `regard_nat_mini.hf` selects others.

    Returns:
        The names. A second call changes nothing.

    Raises:
        MissingDependencyError: timm is not installed.

    Example:
        >>> import timm
        >>> names = register_with_timm()
        >>> timm.create_model("regard_nat_mini", features_only=True).feature_info.channels()
        [64, 128, 256, 512]
    """
    models = require("timm.models", extra="train")
    if not default_cfgs:
        cfgs = {f"{PREFIX}{name}{tag}": cfg for name in MODELS for tag, cfg in _cfgs(name).items()}
        default_cfgs.update(models.generate_default_cfgs(cfgs))
        for name in MODELS:
            models.register_model(_entrypoint(name))
    return [PREFIX + name for name in MODELS]


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """Return the function that timm's factory calls."""

    def entrypoint(pretrained: bool = False, **options: object) -> nn.Module:
        return require("timm.models", extra="train").build_model_with_cfg(
            partial(_build, name),
            PREFIX + name,
            pretrained,
            pretrained_filter_fn=partial(_own_state, name),
            feature_cfg={"feature_cls": "getter", "out_indices": _default_features(name)},
            **options,
        )

    entrypoint.__name__ = entrypoint.__qualname__ = PREFIX + name
    return entrypoint


def _build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    **overrides: object,
) -> Backbone[Any]:
    side = overrides.get("img_size")
    if isinstance(side, tuple | list) and len(set(side)) == 1:  # timm passes height and width
        overrides["img_size"] = side[0]
    config = override(name, MODELS[name].config, overrides)
    model = family_of(name)(config, num_classes=num_classes, in_chans=in_chans)
    if drop_rate:
        raise UnsupportedError(f"the models have no dropout before their classifiers, got {drop_rate=}; use 0")
    if global_pool is not None:
        model.reset_classifier(num_classes, global_pool)
    return model


def _own_state(name: str, state: Mapping[str, Any], model: Backbone[Any]) -> dict[str, Tensor]:
    """Convert the state dict that timm read; for another number of classes, timm removes the classifier afterwards."""
    has_other_classes = model.num_classes != MODELS[name].num_classes
    classifiers = model.classifiers if has_other_classes else ()
    keep = [f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias")]
    return convert_state(model, unwrap(state), keep=keep)[0]


def _default_features(name: str) -> int | tuple[int, ...]:
    """Return all stages of a pyramid, or the last three blocks of a network of one resolution, as timm does."""
    info = family_of(name).describe_features(MODELS[name].config)
    return tuple(range(len(info))) if info[0]["reduction"] < info[-1]["reduction"] else 3


def _cfgs(name: str) -> dict[str, dict[str, Any]]:
    """Return timm's configurations of a model by tag, one for each of the weights that timm can download."""
    variant, family = MODELS[name], family_of(name)
    others = {
        naming.name
        for naming in family.name_tensors(variant.config)
        if any(getattr(variant.config, field) != value for field, value in naming.requires.items())
    }
    classifiers = family.name_classifiers(variant.config)
    reduction = None if family.pooling == "token" else family.describe_features(variant.config)[-1]["reduction"]
    common = {
        "num_classes": variant.num_classes,
        "fixed_input_size": family.pooling == "token",
        "first_conv": family.first_conv,
        "classifier": classifiers if len(classifiers) > 1 else classifiers[0],
    }
    fetched = {
        word: weights
        for word, weights in variant.weights.items()
        if word not in others  # they need another configuration
        and not weights.source.startswith("drive://")
    }
    tags = {f".{word}": weights for word, weights in fetched.items()}
    none = {"": Weights("", preprocessing=variant.preprocessing)}
    return {tag: common | _cfg(weights, reduction) for tag, weights in (tags if tags else none).items()}


def _cfg(weights: Weights, reduction: int | None) -> dict[str, Any]:
    """Return the fields that depend on the weights; `reduction` is that of the pooled grid, None without one."""
    preprocessing = weights.preprocessing
    scheme, _, rest = weights.source.partition("://")
    return {
        "url": weights.source if scheme == "https" else "",
        "hf_hub_id": rest if scheme == "hf" else None,
        "input_size": (3, preprocessing.image_size, preprocessing.image_size),
        "pool_size": None if reduction is None else (math.ceil(preprocessing.image_size / reduction),) * 2,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "license": weights.license,
    }
