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
        train_loss: mean training loss over the epoch, with label smoothing; None if no step had a finite loss.
        train_accuracy: training accuracy over the epoch, 0 to 1; None likewise.
        val_loss: mean cross-entropy of the validation images after the epoch.
        val_accuracy: accuracy on the validation images after the epoch, 0 to 1.
        lr: learning rate of the last step.
        images_per_second: training images per second, of all processes.
        seconds: duration of the epoch including the validation.
        skipped_steps: steps that were left out, since the loss or a gradient was not finite.
        is_best: whether the weights after this epoch are the best so far.
        is_last: whether training ended after this epoch.
    """

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    lr: float
    images_per_second: float
    seconds: float
    skipped_steps: int = 0
    is_best: bool = False
    is_last: bool = False


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
        images_per_second: training images per second in the epoch so far, of all processes.
        lr: learning rate of the step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    lr: float


class Watcher:
    """Training callbacks; each does nothing by default."""

    def checked(self, images: int, total: int) -> None:
        """Called while the image files are checked, with the number checked so far and the `total` to check."""

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """Called before the first step, with the number of the model's `parameters`."""

    def stepped(self, progress: Progress) -> None:
        """Called after each step."""

    def validated(self, record: Record) -> None:
        """Called after each epoch, once the validation images are evaluated and the run is saved."""

    def noted(self, line: str) -> None:
        """Called with whatever else a person should know, such as a step that was left out."""

    def ended(self) -> None:
        """Called when training ends, for whatever reason."""


class Watchers(Watcher):
    """Several callbacks as one.

    Args:
        watchers: each is called in turn.
    """

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = watchers

    def checked(self, images: int, total: int) -> None:
        """Tell all."""
        for each in self.watchers:
            each.checked(images, total)

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """Tell all."""
        for each in self.watchers:
            each.started(config, source, parameters)

    def stepped(self, progress: Progress) -> None:
        """Tell all."""
        for each in self.watchers:
            each.stepped(progress)

    def validated(self, record: Record) -> None:
        """Tell all."""
        for each in self.watchers:
            each.validated(record)

    def noted(self, line: str) -> None:
        """Tell all."""
        for each in self.watchers:
            each.noted(line)

    def ended(self) -> None:
        """Tell all."""
        for each in self.watchers:
            each.ended()
