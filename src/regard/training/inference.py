"""Run a model over many image files, on this machine or with Ray on several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regard.errors import BrokenImageError, OptionError
from regard.extras import require
from regard.models import Preprocessing
from regard.models.fields import check_fields
from regard.training.classifier import Classifier
from regard.training.devices import choose_device, count_cores
from regard.training.images import read_image

ENGINES = ("local", "ray")
MINIMUM = {"batch_size": 1, "workers": 0, "actors": 1}
MAX_DEFAULT_WORKERS = 4

Output = Literal["probabilities", "features"]
"""The method of `Classifier` that computes the answers."""

Answer = np.ndarray | BrokenImageError
"""The output for one image, or why the image cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a model is run over images.

    Attributes:
        batch_size: images per call of the model.
        workers: processes that read images; not used by Ray, whose actors read their images. Default: 0 for few
            images, else 4, or the number of processor cores if lower.
        device: device of the model, such as `cpu`, `cuda` or `cuda:1`. Default: the accelerator of the machine, else
            `cpu`.
        engine: `local`, or `ray` for any number of machines.
        actors: copies of the model with Ray.

    Raises:
        OptionError: a value out of range, or an unknown engine or device.
        UnsupportedError: PyTorch cannot use the device.
        MissingDependencyError: Ray is not installed.
    """

    batch_size: int = 64
    workers: int | None = None
    device: str | None = None
    engine: str = "local"
    actors: int = 2

    def __post_init__(self) -> None:
        check_fields(self)
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise OptionError(f"{name} must be at least {minimum}, got {value}")
        if self.engine not in ENGINES:
            raise OptionError.unknown("engine", self.engine, ENGINES)
        choose_device(self.device)
        if self.engine == "ray":
            require("ray.data", extra="ray")

    def workers_for(self, images: int) -> int:
        """Return the number of processes that read so many images."""
        if self.workers is not None:
            return self.workers
        return 0 if images <= 4 * self.batch_size else min(MAX_DEFAULT_WORKERS, count_cores())


class Batch(NamedTuple):
    """Some images: the pixels of the readable ones `[B, 3, H, W]`, and an error or None for each."""

    pixels: Tensor | None
    errors: list[BrokenImageError | None]


class ImageFiles(Dataset["Tensor | BrokenImageError"]):
    """Read and preprocess image files. The item of a file that cannot be read is the error."""

    def __init__(self, images: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | BrokenImageError:
        """Return an image `[3, H, W]`, or the error if it cannot be read."""
        try:
            return self.preprocessing(read_image(self.images[index]))
        except BrokenImageError as error:
            return error


def infer(classifier: Classifier, images: Sequence[Path], output: Output, options: Inference) -> Iterator[Answer]:
    """Yield the output of a model for each image file, in the order of the files.

    Args:
        classifier: the model.
        images: the files.
        output: "probabilities" or "features".
        options: batch size, device and engine.
    """
    if options.engine == "ray":
        from regard.training.ray_engine import infer_with_ray

        yield from infer_with_ray(classifier, images, output, options)
        return
    classifier = classifier.to(choose_device(options.device))
    batches = DataLoader(
        ImageFiles(images, classifier.preprocessing),
        batch_size=options.batch_size,
        num_workers=options.workers_for(len(images)),
        collate_fn=collate,
    )
    for batch in batches:
        yield from compute(classifier, batch, output)


def collate(items: Sequence[Tensor | BrokenImageError]) -> Batch:
    """Stack the images that can be read."""
    pixels = [item for item in items if isinstance(item, Tensor)]
    errors = [item if isinstance(item, BrokenImageError) else None for item in items]
    return Batch(torch.stack(pixels) if pixels else None, errors)


def compute(classifier: Classifier, batch: Batch, output: Output) -> list[Answer]:
    """Return the output, or the error, for each image of a batch."""
    rows = iter(() if batch.pixels is None else getattr(classifier, output)(batch.pixels))
    return [next(rows) if error is None else error for error in batch.errors]
