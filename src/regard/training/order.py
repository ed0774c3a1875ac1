"""The order of the images and the seeds of all random draws, as functions of their place in training.

Nothing is drawn from a state that earlier steps have left. So a run that was stopped within an epoch continues as if it
had not been, and no image is read to get there. In each step, several processes read the
images that one process with the summed batch size would read, and each image is augmented alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from regard.training.streams import Stream

Key = tuple[int, int]
"""The index of an image, and the seed of its augmentation."""


def seed_at(*place: int | str) -> int:
    """Return the 63-bit seed of a place, such as the run's seed, the epoch and the step.

    Example:
        >>> seed_at(0, "order", 1) == seed_at(0, "order", 1) != seed_at(0, "order", 2)
        True
    """
    digest = blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_order(seed: int, epoch: int, images: int) -> Tensor:
    """Return the order of the images in an epoch, a permutation `[images]`."""
    generator = torch.Generator().manual_seed(seed_at(seed, "order", epoch))
    return torch.randperm(images, generator=generator)


class Batches(Sampler[list[Key]]):
    """The batches of one process in one epoch, from a given step on.

    Each step takes the next `batch_size * processes` images of the epoch's order, and each process an equal part of
    them. Images that do not fill the last step are left out; the next epoch has another order.

    Args:
        images: number of images.
        batch_size: images per step and process.
        seed: of the run.
        process: index of this process.
        processes: number of processes.

    Example:
        >>> batches = Batches(10, 2, seed=0, process=0, processes=2)
        >>> batches.start(epoch=1, step=1)  # the first step is done already
        >>> len(list(batches)), batches.steps
        (1, 2)
    """

    is_resumable = True
    """Whether an epoch can begin after its first step."""

    def __init__(self, images: int, batch_size: int, *, seed: int, process: int = 0, processes: int = 1) -> None:
        self.images, self.batch_size, self.seed = images, min(batch_size, images), seed
        self.process, self.processes = process, processes
        self.steps = images // (self.batch_size * processes)
        self.start(1)

    def start(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration begin in an epoch after a number of steps."""
        self.epoch, self.first = epoch, step

    def __len__(self) -> int:
        """Return the number of batches that the next iteration has."""
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        """Return the batches: for each image its index and the seed of its augmentation."""
        order = epoch_order(self.seed, self.epoch, self.images)
        epoch, size = self.epoch, self.batch_size
        for step in range(self.first, self.steps):
            begin = (step * self.processes + self.process) * size
            indices = order[begin : begin + size].tolist()
            yield [(index, seed_at(self.seed, "image", epoch, index)) for index in indices]


class StreamBatches:
    """The batches of a stream, which has an order of its own and begins each epoch at its start.

    Args:
        stream: the training images.
        batch_size: images per step in this process.
    """

    is_resumable = False

    def __init__(self, stream: Stream, batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.steps = len(stream) // batch_size

    def start(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration begin in an epoch."""
        del step
        self.stream.set_epoch(epoch)
