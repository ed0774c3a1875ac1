"""Random preprocessing of training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from regard.extras import require
from regard.models.preprocessing import Preprocessing
from regard.training.config import TrainConfig

if TYPE_CHECKING:
    from PIL.Image import Image


def with_shifts(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """Return a preprocessing that first shifts images by up to an eighth. Digits are never mirrored."""
    transforms = require("torchvision.transforms", extra="train")
    return transforms.Compose([transforms.RandomAffine(degrees=0, translate=(1 / 8, 1 / 8)), preprocessing])


def augmentation(preprocessing: Preprocessing, config: TrainConfig) -> Callable[[Image], Tensor]:
    """Return timm's training transforms: random resized crop, horizontal flip, color changes and erasing."""
    return require("timm.data", extra="train").create_transform(
        preprocessing.image_size,
        is_training=True,
        scale=(config.min_scale, 1.0),
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        interpolation="bicubic",
        re_prob=config.erasing,
        re_mode="pixel",
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
