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


def handwriting(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """Return a preprocessing that first moves, turns and scales an image a little. Digits are never mirrored.

    Pixels are enlarged to blocks before and averaged after, so that the changes are finer than a pixel, and an image
    that is not changed stays as sharp as it was.
    """
    transforms = require("torchvision.transforms", extra="train")
    mode = transforms.InterpolationMode
    moved = transforms.RandomAffine(degrees=12, translate=(1 / 8, 1 / 8), scale=(0.9, 1.1), interpolation=mode.BILINEAR)
    blocks, pixels = transforms.Resize(32, mode.NEAREST), transforms.Resize(8, mode.BOX)
    return transforms.Compose([blocks, moved, pixels, preprocessing])


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
