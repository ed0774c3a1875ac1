"""Train a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from regard.errors import BrokenImageError, RegardError, UnsupportedError
from regard.extras import require
from regard.models import MODELS, Backbone, Preprocessing, create_model
from regard.training.augmentation import augmentation, with_shifts
from regard.training.config import TrainConfig
from regard.training.data import DIGITS, ImageDataset, Source, collate, open_source
from regard.training.devices import CPU, default_device, why_unavailable
from regard.training.integrity import AGAIN, check_images, suspect_all
from regard.training.run import Run, RunConfig
from regard.training.score import Tally, tally, unpack
from regard.training.versions import versions
from regard.training.watcher import Progress, Record, Watcher

if TYPE_CHECKING:
    from accelerate import Accelerator

EXTRA = "train"


def train(config: TrainConfig, *, watcher: Watcher | None = None) -> Run:
    """Train a model and save the run after every epoch, so that `evaluate` and `predict` can use it.

    timm's AdamW updates the weights, and timm's cosine schedule with warm-up the learning rate. accelerate places the
    model on the device, or on several devices under `accelerate launch`. On a CPU, the same seed gives the same weights
    bit by bit on one machine with one number of threads.

    Args:
        config: model, data and recipe.
        watcher: callbacks that report the progress.

    Returns:
        The run.

    Raises:
        BrokenImageError: images cannot be read. This is checked before training starts, and the message lists all of
            them. An image that fails later ends the run; its folder keeps the current weights and the metrics.
        DataError: the data or the output folder cannot be used.
        OptionError: an unknown model or override.
        UnsupportedError: the device or its precision is not available.
        RegardError: the loss became infinite or not a number; the folder keeps the finished epochs.
        KeyboardInterrupt: Ctrl-C; the folder keeps the current weights and the metrics.

    Example:
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         image_size=8, device="cpu"))
        >>> len(run.metrics())
        1
    """
    source = open_source(config.data)
    accelerator = _accelerator(config)
    watcher = Watcher() if watcher is None or not accelerator.is_main_process else watcher
    require("accelerate.utils", EXTRA).set_seed(config.seed)
    model = create_model(config.model, num_classes=len(source.classes), **config.overrides)
    preprocessing = _preprocessing(config, model)
    with torch.inference_mode():  # a wrong image size must not cost an earlier run
        model.eval()(torch.zeros(1, 3, preprocessing.image_size, preprocessing.image_size))
    with accelerator.main_process_first():  # the other processes then find the result in the cache
        source = check_images(source, config.data, skip_broken=config.skip_broken, progress=watcher.checked)
    loop = _Loop(config, source, preprocessing, model, accelerator)
    run = Run(Path(config.out), _run_config(config, source, preprocessing))
    if accelerator.is_main_process:
        run.create(overwrite=config.overwrite)
    try:
        loop.save(run)
        watcher.started(config, source, sum(parameter.numel() for parameter in model.parameters()))
        for epoch in range(1, config.epochs + 1):
            for progress in loop.learn(epoch):
                watcher.stepped(progress)
            record = loop.measure()
            loop.save(run)
            watcher.tested(record)
    except (KeyboardInterrupt, BrokenImageError) as error:
        loop.interrupt()
        loop.save(run)
        if isinstance(error, BrokenImageError):
            suspect_all(source, config.data)
            raise BrokenImageError(error.images, remedy=f"{AGAIN}; --overwrite replaces the run") from error
        raise
    finally:
        loop.save_curve(run)
    return run


class _Loop:
    """The state of a training run between steps."""

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        preprocessing: Preprocessing,
        model: nn.Module,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.classes = len(source.classes)
        optimizer = require("timm.optim", EXTRA).create_optimizer_v2(
            model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay
        )
        self.model, self.optimizer, self.train_batches, self.test_batches = accelerator.prepare(
            model, optimizer, *_batches(config, source, preprocessing)
        )
        steps = len(self.train_batches)
        warmup = round(config.warmup * steps)
        self.schedule = require("timm.scheduler", EXTRA).CosineLRScheduler(
            optimizer,
            t_initial=config.epochs * steps - warmup,
            lr_min=config.lr / 100,
            warmup_t=warmup,
            warmup_lr_init=config.lr / 100,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.records: list[Record] = []
        self._begin(1)

    def learn(self, epoch: int) -> Iterator[Progress]:
        """Train for one epoch, and yield after every step."""
        self._begin(epoch)
        self.model.train()
        steps = len(self.train_batches)
        for step, batch in enumerate(self.train_batches, start=1):
            images, labels = unpack(batch)
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
            self._check_finite(loss.item())
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.lr = self.optimizer.param_groups[0]["lr"]
            self.schedule.step_update((epoch - 1) * steps + step)
            self.tally.add(logits, labels, loss)
            self.images_per_second = self._images() / (perf_counter() - self.began)
            yield Progress(
                epoch, self.config.epochs, step, steps, self.tally.loss, self.tally.accuracy, self.images_per_second
            )

    def measure(self) -> Record:
        """Record the epoch with the score on the test images."""
        result = tally(self.model, self.test_batches, self.classes, self.accelerator.gather_for_metrics)
        self._check_finite(result.loss)
        return self._record(result.loss, result.accuracy, interrupted=False)

    def interrupt(self) -> None:
        """Record the current epoch as interrupted, unless it has no step or is recorded already."""
        if self.tally.images and len(self.records) < self.epoch:
            self._record(None, None, interrupted=True)

    def save(self, run: Run) -> None:
        """Write the weights and the metrics."""
        if self.accelerator.is_main_process:
            run.save(self.accelerator.unwrap_model(self.model), self._lines())

    def save_curve(self, run: Run) -> None:
        """Draw the metrics."""
        if self.accelerator.is_main_process:
            run.save_curve(self._lines())

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.tally = Tally(self.classes)
        self.began = perf_counter()

    def _record(self, test_loss: float | None, test_accuracy: float | None, *, interrupted: bool) -> Record:
        record = Record(
            epoch=self.epoch,
            train_loss=self.tally.loss,
            train_accuracy=self.tally.accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            lr=self.lr,
            images_per_second=self.images_per_second,
            seconds=perf_counter() - self.began,
            interrupted=interrupted,
        )
        self.records.append(record)
        return record

    def _lines(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self.records]

    def _images(self) -> int:
        return self.tally.images * self.accelerator.num_processes

    def _check_finite(self, loss: float) -> None:
        if not isfinite(loss):
            raise RegardError(
                f"expected a finite training loss, got {loss} in epoch {self.epoch}; train again with a lower learning "
                f"rate than {self.config.lr} or a longer warm-up ({self.config.out} keeps the finished epochs)"
            )


def _accelerator(config: TrainConfig) -> Accelerator:
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
    try:
        accelerator = accelerate.Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
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


def _batches(
    config: TrainConfig, source: Source, preprocessing: Preprocessing
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return the loaders of the training and test batches."""
    digits = str(config.data) == DIGITS
    transform = with_shifts(preprocessing) if digits else augmentation(preprocessing, config.color_jitter)
    workers = config.workers
    if workers is None:
        workers = 0 if digits else min(4, os.cpu_count() or 1)
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": collate,
    }
    train_batches = DataLoader(
        ImageDataset(source.train, transform),
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
        drop_last=len(source.train) > config.batch_size,  # a last batch of one image would break batch normalization
        **options,
    )
    return train_batches, DataLoader(ImageDataset(source.test, preprocessing), **options)


def _preprocessing(config: TrainConfig, model: Backbone[Any]) -> Preprocessing:
    if str(config.data) == DIGITS:
        size = 8 if config.image_size is None else config.image_size
        return Preprocessing(size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    default = min(224, 56 * model.feature_info[0]["reduction"])  # the first grid of the published models is 56x56
    return Preprocessing(default if config.image_size is None else config.image_size, crop_pct=0.9)


def _run_config(config: TrainConfig, source: Source, preprocessing: Preprocessing) -> RunConfig:
    stored_elsewhere = ("model", "overrides", "data", "out", "overwrite")
    recipe = {name: value for name, value in asdict(config).items() if name not in stored_elsewhere}
    return RunConfig(
        model=config.model,
        model_config=asdict(replace(MODELS[config.model].config, **config.overrides)),
        classes=source.classes,
        preprocessing=preprocessing,
        data=DIGITS if str(config.data) == DIGITS else str(Path(config.data).resolve()),
        recipe={**recipe, "warmup_epochs": config.warmup},
        versions=versions(),
    )
