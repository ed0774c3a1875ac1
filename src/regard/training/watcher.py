"""Training callbacks and what they receive."""

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
        epoch: number of the epoch, starting at 1.
        train_loss: mean training loss over the epoch, with label smoothing.
        train_accuracy: training accuracy over the epoch, 0 to 1.
        test_loss: mean cross-entropy of the test images after the epoch; None if the epoch was interrupted.
        test_accuracy: accuracy on the test images after the epoch, 0 to 1; None if the epoch was interrupted.
        lr: learning rate of the last step.
        images_per_second: training images per second.
        seconds: duration of the epoch including the test.
        interrupted: whether the epoch was interrupted.
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
    """The state of a run after a step.

    Attributes:
        epoch: number of the current epoch, starting at 1.
        epochs: total number of epochs.
        step: number of the step in the epoch, starting at 1.
        steps: steps per epoch.
        loss: mean training loss of the epoch so far.
        accuracy: training accuracy of the epoch so far, 0 to 1.
        images_per_second: training images per second in the epoch so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float


class Watcher:
    """Training callbacks; each does nothing by default."""

    def checked(self, images: int, total: int) -> None:
        """Called while the image files are checked, with the number checked so far and the `total` to check."""

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """Called before the first step, with the number of the model's `parameters`."""

    def stepped(self, progress: Progress) -> None:
        """Called after each step."""

    def tested(self, record: Record) -> None:
        """Called after each epoch, once the test images are evaluated and the run is saved."""
