"""From an image to the tensor that training sees: the model's preprocessing, at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from regard.extras import require
from regard.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image


def shifted(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """Precede a preprocessing by random shifts of up to an eighth of the image: for digits, which have no mirror."""
    transforms = require("torchvision.transforms", extra="train")
    return transforms.Compose([transforms.RandomAffine(degrees=0, translate=(1 / 8, 1 / 8)), preprocessing])


def augmented(preprocessing: Preprocessing, color_jitter: float) -> Callable[[Image], Tensor]:
    """Build timm's training transforms: a random resized crop, a random flip and, unless 0, color jitter."""
    return require("timm.data", extra="train").create_transform(
        preprocessing.image_size,
        is_training=True,
        scale=(0.35, 1.0),
        color_jitter=color_jitter,
        auto_augment=None,
        interpolation="bicubic",
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
