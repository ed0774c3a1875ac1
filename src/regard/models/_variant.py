"""What is known of a published model: its configuration, its size, and the weights that somebody trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from regard.models.preprocessing import Preprocessing

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Weights:
    """Published weights of a variant.

    Attributes:
        source: where they are: `https://` of a file, `hf://owner/name` on the Hugging Face hub, or `drive://id` on
            Google Drive, which has to be visited by hand.
        top1: accuracy on the 50,000 validation images of ImageNet-1k in percent, as that source states it; None where
            it states none.
        preprocessing: from an image to the input that they were evaluated with.
        license: SPDX identifier, or the name of the license.
    """

    source: str
    top1: float | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    license: str = "apache-2.0"


@dataclass(frozen=True)
class Variant(Generic[ConfigT]):
    """A model by name.

    Attributes:
        config: what makes it.
        parameters: with `num_classes` classes and RGB images.
        gmacs: billions of multiplications and additions for one image of `image_size` pixels, as published; for our
            own variants, as `torch.utils.flop_counter` counts them.
        image_size: side of the square images that it is measured on.
        num_classes: of its published weights.
        weights: what was published, by the word that `create_model(weights=...)` takes.
    """

    config: ConfigT
    parameters: int
    gmacs: float
    image_size: int = 224
    num_classes: int = 1000
    weights: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """The accuracy that the first of the weights to state one was published with."""
        return next((each.top1 for each in self.weights.values() if each.top1 is not None), None)

    @property
    def preprocessing(self) -> Preprocessing:
        """That of the first of the weights; ImageNet's mean and standard deviation where nobody published any."""
        first = next(iter(self.weights.values()), None)
        return Preprocessing(self.image_size) if first is None else first.preprocessing
