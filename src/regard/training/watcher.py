"""What a training run tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.training.config import TrainConfig
    from regard.training.data import Source


@dataclass(frozen=True)
class Record:
    """The metrics of one epoch: a line of `metrics.jsonl`.

    Attributes:
        epoch: its number, from 1.
        train_loss: mean training loss, with label smoothing, while the weights changed.
        train_accuracy: part of the training images recognized, while the weights changed.
        test_loss: mean cross-entropy of the test images after the epoch; None if it was interrupted.
        test_accuracy: part of the test images recognized after the epoch; None if it was interrupted.
        lr: learning rate of the last step.
        images_per_second: training images per second.
        seconds: time of the epoch, the test included.
        interrupted: whether the epoch was broken off.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    lr: float
    images_per_second: float
    seconds: float
    interrupted: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step: means over the epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float


class Watcher:
    """Is told how a training run goes on. This one keeps quiet; override what you want to hear."""

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """The run is about to make its first step, on a model with so many `parameters`."""

    def stepped(self, progress: Progress) -> None:
        """A step has been made."""

    def tested(self, record: Record) -> None:
        """An epoch is over, its test included, and saved."""
