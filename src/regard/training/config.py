"""The settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from regard.errors import OptionError
from regard.models.fields import check_fields

CHOICES: Mapping[str, tuple[str, ...]] = {
    "device": ("cpu", "cuda", "mps", "xpu"),
    "mixed_precision": ("no", "bf16", "fp16"),
    "parallel": ("ddp", "fsdp2"),
    "clip_mode": ("norm", "value", "agc"),
    "distillation": ("hard", "soft"),
    "class_weights": ("balanced",),
    "on_nan": ("stop", "skip"),
    "tracker": ("tensorboard", "wandb", "trackio", "mlflow"),
}
MINIMUM: Mapping[str, float] = {
    "epochs": 1,
    "batch_size": 2,
    "accumulate": 1,
    "image_size": 1,
    "num_classes": 2,
    "seed": 0,
    "split_seed": 0,
    "workers": 0,
    "lr": 0,
    "min_lr": 0,
    "weight_decay": 0,
    "warmup_epochs": 0,
    "color_jitter": 0,
    "mixup": 0,
    "cutmix": 0,
    "freeze_stages": 0,
    "lora_rank": 1,
    "patience": 1,
    "temperature": 1e-3,
    "keep": 1,
    "checkpoint_minutes": 0,
}
SHARES = ("label_smoothing", "erasing", "drop_path", "ema_decay", "distill_weight", "layer_decay", "min_scale")
"""Fields in [0, 1]."""

MAX_SEED = 2**32 - 1  # numpy's limit
MAX_DEFAULT_WARMUP = 2.0  # epochs
SET_BY_DATA = ("num_classes", "in_chans", "weights")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The model, the data and the recipe of a training run.

    `regard train` takes its options, their defaults and their help from this class. `resolve` fills in a recipe.

    Attributes:
        model: a name from `regard models`.
        data: source of the images: `digits`; a folder with one subfolder of images per class; or a name of
            `timm.data.create_dataset`, such as `hfds/NAME` or `wds/NAME`.
        train_split: name of the training images in timm's datasets; a slice such as `train[:90%]` works for some.
        val_split: name of the validation images in timm's datasets.
        data_root: folder that timm's dataset is kept in or downloaded to. Default: the library's own.
        num_classes: number of classes of a streamed dataset that does not know it.
        out: folder to write the run into.
        recipe: name of the recipe that the other settings come from; `regard train --show-recipe` lists them.
        weights: start from `official`, `timm` or `hf` weights, from the first of them that can be downloaded
            (`published`), or from a file, with a new classifier. Default: random weights.
        epochs: passes over the training images.
        batch_size: images per step, in each process.
        accumulate: steps whose gradients are summed before the weights change.
        opt: optimizer, by timm's name, such as `adamw`, `sgd` or `lion`.
        lr: peak learning rate. It is warmed up linearly, then lowered along a cosine.
        min_lr: last learning rate. Default: a hundredth of the peak.
        momentum: momentum of the optimizers that have one. Default: timm's.
        weight_decay: weight decay. Biases, norms and the parameters that the model exempts have none.
        layer_decay: factor of the learning rate from each block to the block before it. Default: 1.
        warmup_epochs: epochs until the peak learning rate. Default: 2, but at most half of the epochs.
        clip_grad: limit of the gradients; see clip_mode. Default: none.
        clip_mode: what is limited: `norm` of all gradients, `value` of each, or `agc`, each relative to its weights.
        label_smoothing: label smoothing of the training loss.
        class_weights: `balanced` weighs the loss of each class by the inverse of its number of images. Default: none.
        drop_path: stochastic-depth rate of the last block. Default: the model's.
        min_scale: smallest area of the random crops, as a share of the image; used for folders only.
        hflip: probability of a horizontal flip; used for folders only.
        color_jitter: strength of the color jitter; used for folders only.
        auto_augment: timm's policy, such as `rand-m9-mstd0.5-inc1`; used for folders only. Default: none.
        erasing: probability that a part of an image is erased; used for folders only.
        mixup: alpha of mixup; 0 disables it.
        cutmix: alpha of cutmix; 0 disables it.
        ema_decay: decay of an exponential moving average of the weights, which is then the result; 0 disables it.
        teacher: model that is distilled: a run, or a model's name in regard or timm with its published weights.
        distillation: whether the student learns the teacher's `hard` decisions or its `soft` probabilities.
        distill_weight: share of the distillation in the loss.
        temperature: temperature of soft distillation.
        linear_probe: train the classifier only.
        lora_rank: train low-rank updates of this rank and the classifier only, by peft. Default: none.
        freeze_stages: number of stages, from the input on, whose weights stay, with the stem. Default: none.
        patience: stop after this many epochs without a better accuracy on the validation images. Default: never.
        image_size: side of the square input image in pixels. Default: the model's own; 56 for nano models on folders.
        seed: seed of the weights, the order of the images and the augmentation; at most 2**32 - 1.
        split_seed: seed of the split of a folder that has no validation images of its own.
        workers: processes that read images. Default: 0 for digits; for folders 4, or the number of processors if lower.
        device: type of the device: `cpu`, `cuda`, `mps` or `xpu`. Default: the accelerator of the machine, else `cpu`.
        mixed_precision: data type of mixed precision: `no`, `bf16` or `fp16`.
        parallel: how several processes share the model: `ddp` copies it, `fsdp2` divides it.
        compile: compile the model with torch.compile.
        channels_last: lay out images and weights channels-last.
        checkpoint_minutes: minutes between checkpoints within an epoch. There is one after every epoch, too.
        keep: number of checkpoints that are kept, besides the best weights.
        on_nan: `stop` or `skip` the step if the loss becomes infinite or not a number.
        tracker: also report the metrics to `tensorboard`, `wandb`, `trackio` or `mlflow`.
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
    train_split: str = "train"
    val_split: str = "validation"
    data_root: str | None = None
    num_classes: int | None = None
    recipe: str | None = None
    weights: str | Path | None = None
    epochs: int = 30
    batch_size: int = 64
    accumulate: int = 1
    opt: str = "adamw"
    lr: float = 1e-3
    min_lr: float | None = None
    momentum: float | None = None
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: float | None = None
    clip_grad: float | None = None
    clip_mode: str = "norm"
    label_smoothing: float = 0.1
    class_weights: str | None = None
    drop_path: float | None = None
    min_scale: float = 0.35
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    teacher: str | Path | None = None
    distillation: str = "soft"
    distill_weight: float = 0.5
    temperature: float = 1.0
    linear_probe: bool = False
    lora_rank: int | None = None
    freeze_stages: int | None = None
    patience: int | None = None
    image_size: int | None = None
    seed: int = 0
    split_seed: int = 0
    workers: int | None = None
    device: str | None = None
    mixed_precision: str = "no"
    parallel: str = "ddp"
    compile: bool = False
    channels_last: bool = False
    checkpoint_minutes: float = 15.0
    keep: int = 2
    on_nan: str = "stop"
    tracker: str | None = None
    skip_broken: bool = False
    overwrite: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise OptionError(f"{name} must be at least {minimum:g}, got {value}")
        for name in SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise OptionError(f"{name} must be in [0, 1], got {value}")
        for name, words in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in words:
                raise OptionError.unknown(name, value, words)
        for name in ("seed", "split_seed"):
            if getattr(self, name) > MAX_SEED:
                raise OptionError(f"{name} must be at most {MAX_SEED}, got {getattr(self, name)}")
        if self.label_smoothing == 1:
            raise OptionError("label_smoothing must be in [0, 1), got 1.0")
        if self.warmup_epochs is not None and 0 < self.warmup_epochs >= self.epochs:
            raise OptionError(
                f"warmup_epochs must be less than epochs, got {self.warmup_epochs} of {self.epochs}; lower it, or "
                "leave it out"
            )
        if fixed := [name for name in SET_BY_DATA if name in self.overrides]:
            raise OptionError(f"{fixed[0]} cannot be overridden in training: the data determine it; remove it")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Check settings that exclude each other.

        Raises:
            OptionError: such settings.
        """
        partial = {"linear_probe": self.linear_probe, "lora_rank": self.lora_rank, "freeze_stages": self.freeze_stages}
        chosen = [name for name, value in partial.items() if value]
        if len(chosen) > 1:
            raise OptionError(f"expected one choice of the weights to train, got {' and '.join(chosen)}; keep one")
        if self.lora_rank and self.parallel == "fsdp2":
            raise OptionError("lora_rank needs parallel='ddp', got 'fsdp2': low-rank updates are small; leave it out")
        mixes = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if mixes and self.class_weights:
            raise OptionError(f"class_weights needs one label per image, got {' and '.join(mixes)}; leave one out")
        if mixes and self.batch_size % 2:
            raise OptionError(f"{mixes[0]} needs an even batch_size, got {self.batch_size}")

    @property
    def warmup(self) -> float:
        """The number of warm-up epochs, with the default filled in."""
        return min(MAX_DEFAULT_WARMUP, self.epochs / 2) if self.warmup_epochs is None else self.warmup_epochs

    @property
    def last_lr(self) -> float:
        """The last learning rate, with the default filled in."""
        return self.lr / 100 if self.min_lr is None else self.min_lr


FIELDS = tuple(each.name for each in fields(TrainConfig))
PLACES = ("model", "data", "out", "recipe", "overwrite", "overrides")
"""Fields that say what is trained and where, and are not part of a recipe."""

FREE = ("workers", "device", "checkpoint_minutes", "keep", "tracker")
"""Fields that may change when a run is resumed, since the result does not depend on them."""
