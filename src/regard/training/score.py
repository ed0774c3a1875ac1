"""What a model gets right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import DataError


@dataclass(frozen=True)
class ClassScore:
    """The score of one class: its name, its images and how many of them were recognized."""

    name: str
    images: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Part of the class's images that were recognized."""
        return self.correct / self.images


@dataclass(frozen=True)
class Score:
    """The score of a model on a set of images.

    Attributes:
        images: how many there were.
        loss: mean cross-entropy, without label smoothing.
        top1: part of the images whose class came first.
        top5: part of the images whose class was among the first five; None where there are five classes or fewer.
        classes: the same by class.
    """

    images: int
    loss: float
    top1: float
    top5: float | None
    classes: tuple[ClassScore, ...]


class Tally:
    """Counts right answers, batch by batch.

    Args:
        num_classes: how many classes there are.

    Example:
        >>> tally = Tally(2)
        >>> tally.add(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor(0.5))
        >>> tally.images, tally.loss, tally.accuracy
        (2, 0.5, 0.5)
    """

    def __init__(self, num_classes: int) -> None:
        self.loss_sum = 0.0
        self.in_top5 = 0
        self.seen = torch.zeros(num_classes, dtype=torch.int64)
        self.correct = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch: logits `[B, classes]`, labels `[B]` and their mean loss `[]`."""
        classes = len(self.seen)
        ranks = logits.detach().topk(min(5, classes)).indices  # [B, up to 5]
        right = (ranks == labels[:, None]).cpu()  # [B, up to 5]
        labels = labels.cpu()
        self.loss_sum += loss.item() * len(labels)
        self.in_top5 += int(right.sum())
        self.seen += labels.bincount(minlength=classes)
        self.correct += labels[right[:, 0]].bincount(minlength=classes)

    @property
    def images(self) -> int:
        """How many images have been added."""
        return int(self.seen.sum())

    @property
    def loss(self) -> float:
        """Mean loss of the images so far."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Part of the images so far whose class came first."""
        return int(self.correct.sum()) / self.images

    def score(self, classes: Iterable[str]) -> Score:
        """Sum up, with the classes' names."""
        counts = zip(classes, self.seen.tolist(), self.correct.tolist(), strict=True)
        by_class = tuple(ClassScore(name, seen, correct) for name, seen, correct in counts)
        top5 = self.in_top5 / self.images if len(by_class) > 5 else None
        return Score(self.images, self.loss, self.accuracy, top5, by_class)


def tally(
    model: nn.Module,
    batches: Iterable[list[Tensor] | DataError],
    num_classes: int,
    gather: Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]] | None = None,
) -> Tally:
    """Run a model over batches of images `[B, 3, H, W]` and labels `[B]`, without learning.

    Args:
        model: is left in evaluation mode.
        batches: images and labels, on the model's device.
        num_classes: how many classes there are.
        gather: collects logits and labels from the processes that share the batches, if there are several.

    Raises:
        DataError: one of the batches is the error that an unreadable image left.
    """
    result = Tally(num_classes)
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            images, labels = unpack(batch)
            logits = model(images)
            if gather is not None:
                logits, labels = gather((logits, labels))
            result.add(logits, labels, F.cross_entropy(logits, labels))
    return result


def unpack(batch: list[Tensor] | DataError) -> tuple[Tensor, Tensor]:
    """Take a batch apart into images and labels, or raise the error that it is."""
    if isinstance(batch, DataError):
        raise batch
    images, labels = batch
    return images, labels
