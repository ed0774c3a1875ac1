"""The training loop."""

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

from regard.errors import DataError, RegardError, UnsupportedError
from regard.extras import require
from regard.models import MODELS, Backbone, Preprocessing, create_model
from regard.training.augmentation import augmented, shifted
from regard.training.config import TrainConfig
from regard.training.data import DIGITS, ImageDataset, Source, collate, open_source
from regard.training.run import Run, RunConfig
from regard.training.score import Tally, tally, unpack
from regard.training.versions import versions
from regard.training.watcher import Progress, Record, Watcher

if TYPE_CHECKING:
    from accelerate import Accelerator

EXTRA = "train"


def train(config: TrainConfig, *, watcher: Watcher | None = None) -> Run:
    """Train a model and leave a run: its folder is complete, for `evaluate` and `predict`, after every epoch.

    The weights start from the seed and are updated by timm's AdamW, the learning rate by timm's cosine with warm-up;
    accelerate places everything on the device, or on several under `accelerate launch`. Same seed, same machine and
    same number of threads: same weights, bit by bit, on a CPU.

    Args:
        config: model, data and recipe.
        watcher: is told how the run goes on.

    Returns:
        The run.

    Raises:
        DataError: the data cannot be read, or the folder cannot be used. An image that turns out to be unreadable
            while training or measuring ends the run; the weights as they were then, and the metrics, are in the folder.
        OptionError: an unknown model or override.
        UnsupportedError: the device is not there.
        RegardError: the loss became infinite or not a number; the finished epochs are kept.
        KeyboardInterrupt: Ctrl-C; the weights as they were then, and the metrics, are in the folder.

    Example:
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         warmup_epochs=0, image_size=8, device="cpu"))
        >>> len(run.metrics())
        1
    """
    source = open_source(config.data)
    accelerator = _accelerator(config)
    require("accelerate.utils", EXTRA).set_seed(config.seed)
    model = create_model(config.model, num_classes=len(source.classes), **config.overrides)
    preprocessing = _preprocessing(config, model)
    with torch.inference_mode():  # images of a size that the model cannot take must not cost an earlier run
        model.eval()(torch.zeros(1, 3, preprocessing.image_size, preprocessing.image_size))
    loop = _Loop(config, source, preprocessing, model, accelerator)
    watcher = Watcher() if watcher is None or not accelerator.is_main_process else watcher
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
    except (KeyboardInterrupt, DataError):
        loop.break_off()
        loop.save(run)
        raise
    finally:
        loop.save_curve(run)
    return run


class _Loop:
    """The state of a training run between its steps."""

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
        warmup = round(config.warmup_epochs * steps)
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
        """Pass over the training images, step by step."""
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
        """Close the epoch with the score on the test images."""
        result = tally(self.model, self.test_batches, self.classes, self.accelerator.gather_for_metrics)
        self._check_finite(result.loss)
        return self._close(result.loss, result.accuracy, interrupted=False)

    def break_off(self) -> None:
        """Close the epoch as it is, if it was begun and not closed yet."""
        if self.tally.images and len(self.records) < self.epoch:
            self._close(None, None, interrupted=True)

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

    def _close(self, test_loss: float | None, test_accuracy: float | None, *, interrupted: bool) -> Record:
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
                f"the loss became {loss} in epoch {self.epoch}; train again with a lower learning rate than "
                f"{self.config.lr} or a longer warm-up ({self.config.out} keeps the epochs before)"
            )


def _accelerator(config: TrainConfig) -> Accelerator:
    accelerate = require("accelerate", EXTRA)
    try:
        accelerator = accelerate.Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    except ValueError as error:
        raise UnsupportedError(
            f"expected to train on device {config.device or 'of any kind'} with mixed_precision "
            f"{config.mixed_precision!r}, got from accelerate: {error}; choose others, or start a new process"
        ) from error
    if config.device is not None and accelerator.device.type != config.device:
        raise UnsupportedError(
            f"expected the device {config.device!r}, got {accelerator.device.type!r} from accelerate; choose that one, "
            "or set up the other"
        )
    return accelerator


def _batches(
    config: TrainConfig, source: Source, preprocessing: Preprocessing
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Build the loaders of training and test batches."""
    digits = str(config.data) == DIGITS
    transform = shifted(preprocessing) if digits else augmented(preprocessing, config.color_jitter)
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
    usual = min(224, 56 * model.feature_info[0]["reduction"])  # the published models' first grid is 56x56
    return Preprocessing(usual if config.image_size is None else config.image_size, crop_pct=0.9)


def _run_config(config: TrainConfig, source: Source, preprocessing: Preprocessing) -> RunConfig:
    elsewhere = ("model", "overrides", "data", "out", "overwrite")
    return RunConfig(
        model=config.model,
        model_config=asdict(replace(MODELS[config.model].config, **config.overrides)),
        classes=source.classes,
        preprocessing=preprocessing,
        data=DIGITS if str(config.data) == DIGITS else str(Path(config.data).resolve()),
        recipe={name: value for name, value in asdict(config).items() if name not in elsewhere},
        versions=versions(),
    )
