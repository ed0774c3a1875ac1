"""Recipes: named settings of training, with their sources, and how they combine with a file and with options."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from regard.errors import DataError, OptionError
from regard.extras import require
from regard.training.config import FIELDS, PLACES, TrainConfig

RUN_CONFIG = "config.json"


@dataclass(frozen=True)
class Recipe:
    """Settings that differ from the defaults of `TrainConfig`.

    Attributes:
        purpose: what it is for.
        settings: field and value.
        source: where the values were published; empty for regard's own.
    """

    purpose: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


_TIMM_MIX = {
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "min_scale": 0.08,
    "color_jitter": 0.4,  # timm leaves it out beside auto_augment
}
_AMP = {"mixed_precision": "bf16", "compile": True}

RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe(
        "small models on scikit-learn's handwritten digits, in minutes on a CPU",
        {"epochs": 40, "batch_size": 32, "lr": 3e-3, "ema_decay": 0.99, "warmup_epochs": 3.0},
    ),
    "finetune": Recipe(
        "published weights on your own images, hundreds to many thousands",
        {
            "weights": "published",
            "epochs": 20,
            "batch_size": 32,
            "lr": 2e-4,
            "layer_decay": 0.75,
            "auto_augment": "rand-m6-mstd0.5-inc1",
            "clip_grad": 1.0,
        },
    ),
    "linear_probe": Recipe(
        "a new classifier on published weights that stay",
        {
            "weights": "published",
            "linear_probe": True,
            "epochs": 20,
            "lr": 1e-2,
            "weight_decay": 0.0,
            "label_smoothing": 0.0,
            "drop_path": 0.0,
        },
    ),
    "lora": Recipe(
        "low-rank updates of published weights, with few trained parameters",
        {"weights": "published", "lora_rank": 8, "epochs": 20, "batch_size": 32, "lr": 1e-3, "clip_grad": 1.0},
    ),
    "swiftformer_in1k": Recipe(
        "SwiftFormer-L1 and L3 on ImageNet-1k; for S add --mixup 0 --cutmix 0, for XS also --auto-augment ''",
        {
            "epochs": 300,
            "batch_size": 256,
            "lr": 2e-3,
            "min_lr": 1e-5,
            "weight_decay": 0.025,
            "warmup_epochs": 5.0,
            "clip_grad": 0.01,
            "clip_mode": "agc",
            "ema_decay": 0.99996,
            "teacher": "regnety_160.deit_in1k",
            "distillation": "hard",
            **_TIMM_MIX,
            "compile": True,
        },
        "SwiftFormer (arXiv 2303.15446), Amshaker/SwiftFormer main.py and README.md; 2,048 images per step, float32. "
        "Left out: repeated augmentation. The published accuracies are those of the weights, not of their average",
    ),
    "mobilevitv2_in1k": Recipe(
        "MobileViTv2 with width 2.0 on ImageNet-1k, at 256 pixels; other widths have other lr, min_lr and weight_decay",
        {
            "epochs": 300,
            "batch_size": 128,
            "image_size": 256,
            "lr": 2e-3,
            "min_lr": 2e-4,
            "weight_decay": 0.05,
            "warmup_epochs": 16.0,
            "clip_grad": 10.0,
            "ema_decay": 0.9995,
            **_TIMM_MIX,
            "mixup": 0.2,
            "auto_augment": "rand-m3-n2-p1-inc1",
            "color_jitter": 0.0,
            **_AMP,
        },
        "MobileViTv2 (arXiv 2206.02680), apple/ml-cvnets config/classification/imagenet/mobilevit_v2.yaml; 1,024 "
        "images per step. auto_augment is timm's nearest policy to torchvision's RandAugment with magnitude 9 of 31",
    ),
    "nat_in1k": Recipe(
        "NAT and DiNAT on ImageNet-1k; for the isotropic base models add --warmup-epochs 50 --ema-decay 0.9998",
        {
            "epochs": 310,
            "batch_size": 128,
            "lr": 1e-3,
            "min_lr": 5e-6,
            "weight_decay": 0.05,
            "warmup_epochs": 20.0,
            "clip_grad": 5.0,
            **_TIMM_MIX,
            **_AMP,
        },
        "NAT (arXiv 2204.07143), SHI-Labs/Neighborhood-Attention-Transformer classification/configs and train.py; "
        "1,024 images per step. The cosine covers all 310 epochs, not 300 before 10 at min_lr; crops are only bicubic",
    ),
    "cait_in1k": Recipe(
        "CaiT on ImageNet-1k at 224 pixels; give --drop-path, which grows with the depth",
        {
            "epochs": 400,
            "batch_size": 128,
            "lr": 1e-3,
            "min_lr": 1e-5,
            "weight_decay": 0.05,
            "warmup_epochs": 5.0,
            **_TIMM_MIX,
            **_AMP,
        },
        "CaiT (arXiv 2103.17239), facebookresearch/deit main.py and README_cait.md; 1,024 images per step. Left out: "
        "repeated augmentation, and the distillation of the published weights (--teacher, --distillation hard)",
    ),
    "swin_in1k": Recipe(
        "Swin on ImageNet-1k",
        {
            "epochs": 300,
            "batch_size": 128,
            "lr": 1e-3,
            "min_lr": 1e-5,
            "weight_decay": 0.05,
            "warmup_epochs": 20.0,
            "clip_grad": 5.0,
            **_TIMM_MIX,
            **_AMP,
        },
        "Swin (arXiv 2103.14030), microsoft/Swin-Transformer config.py and main.py; 1,024 images per step, for which "
        "its code doubles the learning rates",
    ),
    "deit_in1k": Recipe(
        "DeiT on ImageNet-1k; for the distilled models add --teacher regnety_160.deit_in1k --distillation hard",
        {
            "epochs": 300,
            "batch_size": 128,
            "lr": 1e-3,
            "min_lr": 1e-5,
            "weight_decay": 0.05,
            "warmup_epochs": 5.0,
            "drop_path": 0.1,
            **_TIMM_MIX,
            **_AMP,
        },
        "DeiT (arXiv 2012.12877, table 9), facebookresearch/deit main.py; 1,024 images per step, for which its code "
        "doubles the learning rate. Left out: repeated augmentation, and the average of the weights, which the "
        "published accuracies do not use",
    ),
}
"""The `..._in1k` recipes are for eight processes: 1,024 images per step, of SwiftFormer 2,048. The learning rates are
for these numbers; scale them with the images."""

DEFAULT, OPTION = "default", "option"


@dataclass(frozen=True)
class Resolved:
    """A training config, and where each of its values comes from.

    Attributes:
        config: the config.
        origins: field and origin: "default", "option", or the recipe's name or file.
    """

    config: TrainConfig
    origins: Mapping[str, str]


def resolve(recipe: str | Path | None = None, **options: object) -> Resolved:
    """Combine the defaults, a recipe and options; later ones override.

    Args:
        recipe: a name of `RECIPES`, a TOML file with fields of `TrainConfig`, or the folder of an earlier run, whose
            settings are repeated. A file may name another recipe in `recipe` to start from.
        options: fields of `TrainConfig`.

    Raises:
        OptionError: an unknown recipe or field, with the nearest names, or a wrong value.
        DataError: the file cannot be read.

    Example:
        >>> found = resolve("finetune", model="swin_tiny_patch4_window7_224", data="photos", out="run", lr=1e-4)
        >>> found.config.layer_decay, found.origins["layer_decay"], found.origins["lr"], found.origins["seed"]
        (0.75, 'finetune', 'option', 'default')
    """
    settings, origins = _settings_of(recipe) if recipe is not None else ({}, {})
    _check_names(options, OPTION)
    settings.update(options)
    origins.update(dict.fromkeys(options, OPTION))
    if recipe is not None:
        settings["recipe"] = str(recipe)
    missing = [each.name for each in fields(TrainConfig) if _is_required(each) and each.name not in settings]
    if missing:
        raise OptionError(
            f"expected values for model, data and out, got none for {', '.join(missing)}; give them as options or in "
            "a recipe's file"
        )
    return Resolved(TrainConfig(**settings), {name: origins.get(name, DEFAULT) for name in FIELDS})


def recipe_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the fields of a config that make its recipe, as JSON and `Run` store them."""
    return {name: getattr(config, name) for name in FIELDS if name not in PLACES}


def _settings_of(recipe: str | Path, files: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a recipe and the origin of each; `files` are those that led to it."""
    if str(recipe) in RECIPES:
        settings = dict(RECIPES[str(recipe)].settings)
        return settings, dict.fromkeys(settings, str(recipe))
    path = Path(recipe)
    if (path / RUN_CONFIG).is_file():
        settings = _read_run(path / RUN_CONFIG)
        return settings, dict.fromkeys(settings, str(recipe))
    if path.suffix != ".toml":
        raise OptionError.unknown("recipe", str(recipe), (*RECIPES, "FILE.toml", "RUN"))
    if path.resolve() in files:
        raise OptionError(f"expected a recipe's file that starts from another recipe, got {str(path)!r} in a circle")
    own = _read_toml(path)
    _check_names(own, str(path))
    settings, origins = _settings_of(own.pop("recipe"), (*files, path.resolve())) if own.get("recipe") else ({}, {})
    return settings | own, origins | dict.fromkeys(own, path.name)


def _read_run(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
        settings = {**stored["recipe"], "model": stored["model"], "data": stored["data"]}
        return settings | {"overrides": stored.get("overrides", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected the config of a run in {str(path)!r}, got {error!r}; check the folder") from error


def _read_toml(path: Path) -> dict[str, Any]:
    reader = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="train")
    try:
        return dict(reader.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a TOML file with settings in {str(path)!r}, got {error}; check the file") from error


def _check_names(settings: Mapping[str, object], place: str) -> None:
    unknown = [name for name in settings if name not in FIELDS]
    if unknown:
        nearest = {name: difflib.get_close_matches(name, FIELDS, n=1) for name in unknown}
        described = [
            f"{name!r} (did you mean {found[0]!r}?)" if found else repr(name) for name, found in nearest.items()
        ]
        raise OptionError(
            f"expected settings of TrainConfig in {place}, got {', '.join(described)}; "
            "`regard train --help` lists all of them"
        )


def _is_required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING
