"""Loss and accuracy of a model on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import DataError


@dataclass(frozen=True)
class ClassScore:
    """The score of one class: its name, its number of images, and the number of correct predictions."""

    name: str
    images: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Part of the images that were predicted correctly."""
        return self.correct / self.images


@dataclass(frozen=True)
class Score:
    """The score of a model on a set of images.

    Attributes:
        images: number of images.
        loss: mean cross-entropy, without label smoothing.
        top1: top-1 accuracy, 0 to 1.
        top5: top-5 accuracy, 0 to 1; None for five classes or fewer.
        classes: the score of each class.
    """

    images: int
    loss: float
    top1: float
    top5: float | None
    classes: tuple[ClassScore, ...]


class Tally:
    """Running loss and accuracy over batches.

    Args:
        num_classes: number of classes.

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
        """Add a batch: logits `[B, classes]`, labels `[B]` and the mean loss `[]`."""
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
        """Number of images so far."""
        return int(self.seen.sum())

    @property
    def loss(self) -> float:
        """Mean loss so far."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy so far, 0 to 1."""
        return int(self.correct.sum()) / self.images

    def score(self, classes: Iterable[str]) -> Score:
        """Return the score, with the names of the classes."""
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
    """Evaluate a model on batches of images `[B, 3, H, W]` and labels `[B]`.

    Args:
        model: the model. It stays in evaluation mode afterwards.
        batches: images and labels on the model's device.
        num_classes: number of classes.
        gather: collects logits and labels from all processes, if several share the batches.

    Raises:
        DataError: an image cannot be read.
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
    """Return the images and labels of a batch, or raise the error if the batch is one.

    A batch may hold more, such as the indices of the images.
    """
    if isinstance(batch, DataError):
        raise batch
    images, labels, *_ = batch
    return images, labels
