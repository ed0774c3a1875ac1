"""What a training run is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import OptionError
from regard.models.fields import check_fields

DEVICES = ("cpu", "cuda", "mps", "xpu")
PRECISIONS = ("no", "bf16", "fp16")
AT_LEAST = {
    "epochs": 1,
    "batch_size": 2,
    "image_size": 1,
    "seed": 0,
    "workers": 0,
    "lr": 0,
    "weight_decay": 0,
    "warmup_epochs": 0,
    "color_jitter": 0,
}
MAX_SEED = 2**32 - 1  # numpy's
TAKEN_FROM_DATA = ("num_classes", "in_chans", "weights")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run: model, data and recipe.

    Attributes:
        model: a name of `regard.list_models()`.
        data: `"digits"` or a folder, as in `regard.training.open_source`.
        out: the folder to write the run into.
        epochs: passes over the training images.
        batch_size: images per step, of each process.
        lr: peak learning rate of AdamW; warmed up linearly, then lowered by a cosine to a hundredth.
        weight_decay: of AdamW; biases, norms and what the model exempts have none.
        warmup_epochs: epochs until the peak learning rate.
        label_smoothing: of the training loss.
        color_jitter: strength of timm's color jitter; folders only.
        image_size: side of the square that the model sees; None is 8 for digits, and for folders
            224, or 56 for the small models, whose first grid is the whole image.
        seed: of the weights, the order and the augmentation; up to 2**32 - 1.
        workers: processes that read images; None is none for digits, and 4 or as many as there are processors for
            folders.
        device: `cpu`, `cuda`, `mps` or `xpu`; None leaves the choice to accelerate.
        mixed_precision: `no`, `bf16` or `fp16`.
        overwrite: whether an earlier run in `out` may be replaced.
        overrides: fields of the model's config that differ from the named variant.

    Raises:
        OptionError: a value of another type, a number out of its range, an unknown word, or an override that
            the data decide.
    """

    model: str
    data: str | Path
    out: str | Path
    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    label_smoothing: float = 0.1
    color_jitter: float = 0.0
    image_size: int | None = None
    seed: int = 0
    workers: int | None = None
    device: str | None = None
    mixed_precision: str = "no"
    overwrite: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise OptionError(f"{name} must be at least {least}, got {value}")
        if self.seed > MAX_SEED:
            raise OptionError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise OptionError(
                f"warmup_epochs must be fewer than epochs, got {self.warmup_epochs} of {self.epochs}; lower it"
            )
        if self.device is not None and self.device not in DEVICES:
            raise OptionError.unknown("device", self.device, DEVICES)
        if self.mixed_precision not in PRECISIONS:
            raise OptionError.unknown("mixed_precision", self.mixed_precision, PRECISIONS)
        if taken := [name for name in TAKEN_FROM_DATA if name in self.overrides]:
            raise OptionError(f"{taken[0]} cannot be overridden in training: the data decide it; remove it")
