"""Variants: the configuration, size and published weights of a named model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

from regard.models.fields import ConfigT
from regard.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Weights:
    """Published weights of a variant.

    Attributes:
        source: `https://...` of a file, `hf://owner/name` on the Hugging Face hub, or `drive://id` on Google Drive,
            from which files must be downloaded manually.
        top1: accuracy on the 50,000 validation images of ImageNet-1k in percent, as published; None if it was not.
        preprocessing: the preprocessing that the weights were evaluated with.
        license: SPDX identifier, or the name of the license.
    """

    source: str
    top1: float | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    license: str = "apache-2.0"


@dataclass(frozen=True)
class Variant(Generic[ConfigT]):
    """A named model.

    Attributes:
        config: its configuration.
        parameters: number of parameters for `num_classes` classes and RGB images.
        gmacs: billions of multiply-adds for one image of `image_size` pixels, as published; for regard's own variants,
            as `torch.utils.flop_counter` counts them.
        image_size: side of the square images of that measurement.
        num_classes: number of classes of its published weights.
        weights: its published weights, by the word that `create_model(weights=...)` takes.
    """

    config: ConfigT
    parameters: int
    gmacs: float
    image_size: int = 224
    num_classes: int = 1000
    weights: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """The first published accuracy of its weights, or None."""
        return next((each.top1 for each in self.weights.values() if each.top1 is not None), None)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of its first weights; ImageNet's mean and standard deviation if none were published."""
        first = next(iter(self.weights.values()), None)
        return Preprocessing(self.image_size) if first is None else first.preprocessing
