"""What a training run needs before its first step: the device, the model, the images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from regard.errors import DataError, OptionError, UnsupportedError
from regard.extras import require
from regard.models import MODELS, Backbone, Preprocessing, create_model, load_weights
from regard.training.augmentation import augmentation, handwriting
from regard.training.config import TrainConfig
from regard.training.data import DIGITS, ImageDataset, Source, collate, is_path
from regard.training.devices import CPU, default_device, why_unavailable
from regard.training.interrupts import end_later
from regard.training.order import Batches, StreamBatches
from regard.training.recipes import recipe_settings
from regard.training.run import WEIGHTS, RunConfig
from regard.training.streams import Stream, StreamDataset
from regard.training.versions import versions

if TYPE_CHECKING:
    from accelerate import Accelerator

EXTRA = "train"
PUBLISHED = "published"
"""The word for the first published weights that can be downloaded."""


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return accelerate's object for the device and the precision.

    Raises:
        UnsupportedError: the device or its precision is not available.
    """
    accelerate = require("accelerate", EXTRA)
    if (problem := why_unavailable(config.device)) is not None:
        raise UnsupportedError(
            f"expected to train on the device {config.device!r}, but {problem}; use --device cpu (device='cpu'), or "
            "leave the device out"
        )
    is_on_cpu = config.device == "cpu" or (config.device is None and default_device() == CPU)
    if is_on_cpu and config.mixed_precision == "fp16":
        raise UnsupportedError(
            "expected a mixed precision that the CPU supports, got 'fp16'; use --mixed-precision bf16 "
            "(mixed_precision='bf16') or no"
        )
    if config.tracker is not None:
        require(config.tracker, extra="track")
    try:
        accelerator = accelerate.Accelerator(
            cpu=is_on_cpu,
            kwargs_handlers=[accelerate.InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # checking many images
            mixed_precision=config.mixed_precision,
            log_with=config.tracker,
            project_dir=str(config.out) if config.tracker else None,
        )
    except ValueError as error:
        raise UnsupportedError(
            f"expected to train with device={config.device!r} and mixed_precision={config.mixed_precision!r}, got an "
            f"error from accelerate: {error}; use another device or precision, or start a new process"
        ) from error
    if config.device is not None and accelerator.device.type != config.device:
        raise UnsupportedError(
            f"expected to train on the device {config.device!r}, but accelerate chose {accelerator.device.type!r}; use "
            f"--device {accelerator.device.type} (device={accelerator.device.type!r}), or change accelerate's settings"
        )
    return accelerator


def make_model(config: TrainConfig, num_classes: int) -> Backbone[Any]:
    """Build the model, with the weights to start from and a new classifier."""
    overrides = dict(config.overrides)
    if config.drop_path is not None:
        overrides["drop_path_rate"] = config.drop_path
    weights = config.weights
    if weights == PUBLISHED and config.model in MODELS:
        weights = published_weights(config.model)
    path = Path(weights) if weights is not None else None
    if path is not None and (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if path is None or not path.is_file():
        return create_model(config.model, num_classes=num_classes, weights=weights, **overrides)
    model = create_model(config.model, num_classes=num_classes, **overrides)
    load_weights(model, path, new_classifier=True)
    return model


def published_weights(name: str) -> str:
    """Return the word for the first published weights of a model that can be downloaded.

    Raises:
        OptionError: there are none.
    """
    for word, weights in MODELS[name].weights.items():
        if not weights.source.startswith("drive://"):
            return word
    raise OptionError(
        f"expected a model with published weights, got {name}, which has none; give a file or a run instead, or choose "
        "another model"
    )


def make_preprocessing(config: TrainConfig, model: Backbone[Any]) -> Preprocessing:
    """Return the preprocessing of the run: that of published weights in the run's image size, or the default one."""
    own = MODELS[config.model].image_size
    is_digits = str(config.data) == DIGITS
    size = config.image_size
    if size is None:  # a model without a stem sees the published models' first grid, 56x56
        size = own if is_digits else min(own if own > 56 else 224, 56 * model.feature_info[0]["reduction"])
    if config.weights is not None and config.weights in (*MODELS[config.model].weights, PUBLISHED):
        return replace(model.preprocessing, image_size=size)
    if is_digits:
        return Preprocessing(size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Preprocessing(size, crop_pct=0.9)


@dataclass(frozen=True)
class Loaders:
    """The images of a run, in batches, for this process.

    Attributes:
        train: training batches of the epoch and step that `batches` was started with.
        batches: their order.
        names: the training images, which know their names.
        val: validation batches; each image is in one process only.
        missing_val: how many validation batches fewer this process has than the first one.
    """

    train: DataLoader[Any]
    batches: Batches | StreamBatches
    names: ImageDataset | StreamDataset
    val: DataLoader[Any]
    missing_val: int = 0

    def epoch(self, epoch: int, step: int) -> Iterator[Any]:
        """Return the training batches of an epoch from a step on."""
        self.batches.start(epoch, step)
        return iter(self.train)


def make_loaders(
    config: TrainConfig, source: Source, preprocessing: Preprocessing, process: int, processes: int
) -> Loaders:
    """Return the loaders of the training and validation images of a process.

    Raises:
        DataError: there are fewer images than processes share in a step.
    """
    needed = config.batch_size * processes
    if processes > 1 and len(source.train) < needed:
        raise DataError(
            f"expected at least {needed} training images, {config.batch_size} for each of {processes} processes, got "
            f"{len(source.train)}; lower the batch size, or use fewer processes"
        )
    if (config.mixup or config.cutmix) and min(config.batch_size, len(source.train)) % 2:
        raise OptionError(
            f"expected an even number of images per step for mixup and cutmix, got {len(source.train)} training images "
            f"and batch_size={config.batch_size}; lower batch_size to an even number"
        )
    digits = str(config.data) == DIGITS
    transform = handwriting(preprocessing) if digits else augmentation(preprocessing, config)
    workers = config.workers
    if workers is None:
        workers = 0 if digits else min(4, os.cpu_count() or 1)
    options: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.accelerator.is_available(),
        "collate_fn": collate,
        "worker_init_fn": end_later,
    }
    batches: Batches | StreamBatches
    names: ImageDataset | StreamDataset
    if isinstance(source.train, Stream):
        source.train.prepare(config.batch_size, workers)
        names, batches = StreamDataset(source.train, transform), StreamBatches(source.train, config.batch_size)
        train: DataLoader[Any] = DataLoader(names, batch_size=config.batch_size, drop_last=True, **options)
    else:
        names = ImageDataset(source.train, transform)
        batches = Batches(len(names), config.batch_size, seed=config.seed, process=process, processes=processes)
        train = DataLoader(names, batch_sampler=batches, **options)
    val, missing = _validation(source, preprocessing, config.batch_size, process, processes, options)
    return Loaders(train, batches, names, val, missing)


def _validation(
    source: Source, preprocessing: Preprocessing, size: int, process: int, processes: int, options: dict[str, Any]
) -> tuple[DataLoader[Any], int]:
    """Return the validation batches of a process, and how many fewer they are than those of the first process."""
    if isinstance(source.val, Stream):  # timm's reader shares the shards among the processes
        source.val.prepare(size, options["num_workers"])
        return DataLoader(StreamDataset(source.val, preprocessing), batch_size=size, **options), 0
    own = source.val[process::processes]
    batches = -(-len(own) // size)
    most = -(-len(range(0, len(source.val), processes)) // size)
    return DataLoader(ImageDataset(own, preprocessing), batch_size=size, **options), most - batches


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Divide the weights of a model among the processes by FSDP2, block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=dtype)}
    stages: Any = model.get_submodule(model.stage_list) if isinstance(model, Backbone) else model.children()
    for stage in stages:
        if any(True for _ in stage.parameters()):
            fully_shard(stage, **options)
    fully_shard(model, **options)


def run_config(config: TrainConfig, source: Source, preprocessing: Preprocessing, processes: int) -> RunConfig:
    """Return what the run stores about itself."""
    overrides = dict(config.overrides)
    if config.drop_path is not None:
        overrides["drop_path_rate"] = config.drop_path
    recipe = {name: str(value) if isinstance(value, Path) else value for name, value in recipe_settings(config).items()}
    return RunConfig(
        model=config.model,
        model_config=asdict(replace(MODELS[config.model].config, **overrides)),
        classes=source.classes,
        preprocessing=preprocessing,
        data=str(Path(config.data).resolve()) if is_path(config.data) else str(config.data),
        recipe={**recipe, "warmup_epochs": config.warmup, "min_lr": config.last_lr},
        overrides=dict(config.overrides),
        processes=processes,
        versions=versions(),
    )


def on_device(batch: Sequence[Tensor], device: torch.device, channels_last: bool) -> list[Tensor]:
    """Return the images `[B, C, H, W]` and the labels of a batch on a device, in the layout of the run."""
    layout = torch.channels_last if channels_last else torch.preserve_format
    images = batch[0].to(device, non_blocking=True, memory_format=layout)
    return [images, batch[1].to(device, non_blocking=True)]
