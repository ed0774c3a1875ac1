"""An exported file as a classifier, for `regard predict` and `regard eval`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from regard.errors import DataError, UnsupportedError
from regard.exporting.opened import Opened
from regard.exporting.samples import to_pixels
from regard.models import Preprocessing
from regard.training.classifier import Classifier


class Served(nn.Module):
    """An exported file as a module that takes normalized images of any number and returns logits.

    Args:
        opened: the file.
        preprocessing: of its images.
        batch: images of a call; None if any number.
        is_preprocessed: whether the file takes pixels and returns probabilities.
    """

    def __init__(self, opened: Opened, preprocessing: Preprocessing, batch: int | None, is_preprocessed: bool) -> None:
        super().__init__()
        self.opened, self.preprocessing = opened, preprocessing
        self.batch, self.is_preprocessed = batch, is_preprocessed
        self.register_parameter("device_of", nn.Parameter(torch.empty(0), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or logarithms of probabilities, `[B, classes]`."""
        if self.is_preprocessed:
            x = to_pixels(x, self.preprocessing)
        if self.batch is None:
            out = self.opened.call(x)
        else:
            out = torch.cat([self._call(part, self.batch) for part in x.split(self.batch)])
        return out.log() if self.is_preprocessed else out

    def _call(self, part: Tensor, batch: int) -> Tensor:
        """Run a part of a batch, filled up with zeros if it is the last one."""
        missing = batch - len(part)
        return self.opened.call(pad(part, (0, 0) * (part.ndim - 1) + (0, missing)).contiguous())[: len(part)]


def serve(file: str) -> Classifier:
    """Open an exported file as a classifier on the CPU.

    Raises:
        OptionError: a file with another ending.
        DataError: the file is missing or damaged, or regard has not written it.
        UnsupportedError: the file takes no photographs, but images of another number of channels.
        MissingDependencyError: its runtime is not installed.
    """
    opened = Opened.open(file)
    found = opened.metadata
    if found is None:
        raise DataError(
            f"expected a file that `regard export` has written, got {file!r}, which names no preprocessing and "
            "classes; export the model with regard"
        )
    if found.in_chans != 3:
        raise UnsupportedError(
            f"expected an exported model of RGB images, got {file!r} with in_chans={found.in_chans}; use its runtime"
        )
    model = Served(opened, found.preprocessing, found.batch, found.is_preprocessed)
    aliases = {name: place for place, name in enumerate(found.classes)}
    return Classifier(found.model, found.weights, model.eval(), found.preprocessing, found.classes, aliases)
