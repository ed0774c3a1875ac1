"""The settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import OptionError
from regard.models.fields import check_fields

DEVICES = ("cpu", "cuda", "mps", "xpu")
PRECISIONS = ("no", "bf16", "fp16")
MINIMUM = {
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
MAX_SEED = 2**32 - 1  # numpy's limit
MAX_DEFAULT_WARMUP = 2.0  # epochs
SET_BY_DATA = ("num_classes", "in_chans", "weights")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The model, the data and the recipe of a training run.

    `regard train` takes its options, their defaults and their help from this class.

    Attributes:
        model: a name from `regard models`.
        data: source of the images: `digits`, or a folder with one subfolder of images per class.
        out: folder to write the run into.
        epochs: passes over the training images.
        batch_size: images per step, in each process.
        lr: peak learning rate of AdamW. It is warmed up linearly, then lowered to a hundredth along a cosine.
        weight_decay: weight decay of AdamW. Biases, norms and the parameters that the model exempts have none.
        warmup_epochs: epochs until the peak learning rate. Default: 2, but at most half of the epochs.
        label_smoothing: label smoothing of the training loss.
        color_jitter: strength of the color jitter; used for folders only.
        image_size: side of the square input image in pixels. Default: 8 for digits; for folders 224, or 56 for
            models without a stem, such as nat_nano.
        seed: seed of the weights, the order of the images and the augmentation; at most 2**32 - 1.
        workers: processes that read images. Default: 0 for digits; for folders 4, or the number of processors if lower.
        device: type of the device: `cpu`, `cuda`, `mps` or `xpu`. Default: the accelerator of the machine, else `cpu`.
        mixed_precision: data type of mixed precision: `no`, `bf16` or `fp16`.
        skip_broken: leave out images that cannot be read. Without it, they are listed before training starts.
        overwrite: replace an earlier run in the output folder.
        overrides: fields of the model's configuration that differ from the named model.

    Raises:
        OptionError: a value has the wrong type, is out of range or is an unknown word, or an override would change a
            field that the data determine.
    """

    model: str
    data: str | Path
    out: str | Path
    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    color_jitter: float = 0.0
    image_size: int | None = None
    seed: int = 0
    workers: int | None = None
    device: str | None = None
    mixed_precision: str = "no"
    skip_broken: bool = False
    overwrite: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise OptionError(f"{name} must be at least {minimum}, got {value}")
        if self.seed > MAX_SEED:
            raise OptionError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.warmup_epochs is not None and 0 < self.warmup_epochs >= self.epochs:
            raise OptionError(
                f"warmup_epochs must be less than epochs, got {self.warmup_epochs} of {self.epochs}; lower it, or "
                "leave it out"
            )
        if self.device is not None and self.device not in DEVICES:
            raise OptionError.unknown("device", self.device, DEVICES)
        if self.mixed_precision not in PRECISIONS:
            raise OptionError.unknown("mixed_precision", self.mixed_precision, PRECISIONS)
        if fixed := [name for name in SET_BY_DATA if name in self.overrides]:
            raise OptionError(f"{fixed[0]} cannot be overridden in training: the data determine it; remove it")

    @property
    def warmup(self) -> float:
        """The number of warm-up epochs, with the default filled in."""
        return min(MAX_DEFAULT_WARMUP, self.epochs / 2) if self.warmup_epochs is None else self.warmup_epochs
