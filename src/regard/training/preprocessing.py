"""From an image to the tensor that a model takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard._extras import require

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Preprocessing:
    """The central square of an image, resized and normalised.

    Attributes:
        image_size: side of the result in pixels.
        crop_pct: side of the square, as a part of the image's shorter side.
        mean: subtracted from the channels, whose range is 0 to 1.
        std: divides the channels afterwards.

    Example:
        >>> from PIL import Image
        >>> Preprocessing(image_size=32)(Image.new("RGB", (80, 60))).shape
        torch.Size([3, 32, 32])
    """

    image_size: int
    crop_pct: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, image: Image) -> Tensor:
        """Turn an RGB image into `[3, H, W]`, H = W = image_size."""
        side = self.crop_pct * min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        bicubic = require("PIL.Image", extra="train").Resampling.BICUBIC
        image = image.resize((self.image_size, self.image_size), bicubic, box=(left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() / 255  # [3, H, W]
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


def shifted(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """Precede a preprocessing by random shifts of up to an eighth of the image: for digits, which have no mirror."""
    transforms = require("torchvision.transforms", extra="train")
    return transforms.Compose([transforms.RandomAffine(degrees=0, translate=(1 / 8, 1 / 8)), preprocessing])


def augmented(preprocessing: Preprocessing, color_jitter: float) -> Callable[[Image], Tensor]:
    """Build timm's training transforms: a random resized crop, a random flip and, unless 0, colour jitter."""
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
