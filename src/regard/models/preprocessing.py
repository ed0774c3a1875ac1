"""Preprocessing: from a PIL image to the input tensor of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from regard.errors import OptionError
from regard.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalize an image.

    Attributes:
        image_size: side of the result in pixels.
        crop_pct: side of the result divided by the shorter side of the resized image.
        mean: mean of each channel, in the range 0 to 1, which is subtracted.
        std: standard deviation of each channel, by which it is divided.
        interpolation: the interpolation of resizing.
        crop_mode: "center" keeps the aspect ratio and crops the central square; "squash" resizes both sides to the
            same length first.

    Source:
        The evaluation transforms of torchvision and timm: the shorter side is resized to image_size / crop_pct, rounded
        down.

    Example:
        >>> from PIL import Image
        >>> Preprocessing(image_size=32)(Image.new("RGB", (80, 60))).shape
        torch.Size([3, 32, 32])
    """

    image_size: int = 224
    crop_pct: float = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_mode: Literal["center", "squash"] = "center"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bicubic", "bilinear"):
            raise OptionError.unknown("interpolation", self.interpolation, ("bicubic", "bilinear"))
        if self.crop_mode not in ("center", "squash"):
            raise OptionError.unknown("crop_mode", self.crop_mode, ("center", "squash"))

    def __call__(self, image: Image) -> Tensor:
        """Return an RGB image as `[3, H, W]`, H = W = image_size."""
        resampling = require("PIL.Image", extra="train").Resampling[self.interpolation.upper()]
        resized = self._resized(*image.size)
        crop = [round((length - self.image_size) / 2) for length in resized]
        left, top, right, bottom = (  # the crop in the original's pixels, so that only the crop is resized
            (start + end) * length / whole
            for end in (0, self.image_size)
            for start, length, whole in zip(crop, image.size, resized, strict=True)
        )
        image = image.resize((self.image_size, self.image_size), resampling, box=(left, top, right, bottom))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() / 255  # [3, H, W]
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def locate(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """Return where a pixel of an image is in the result, as x and y; outside of 0 to image_size if it was cut off.

        Args:
            x: column of the pixel, from the left.
            y: row of the pixel, from the top.
            size: width and height of the image.

        Example: the center stays the center.
            >>> Preprocessing(image_size=32, crop_pct=0.875).locate(40, 30, (80, 60))
            (16.0, 16.0)
        """
        resized = self._resized(*size)
        column, row = (
            place * whole / length - round((whole - self.image_size) / 2)
            for place, length, whole in zip((x, y), size, resized, strict=True)
        )
        return column, row

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        side = math.floor(self.image_size / self.crop_pct)
        if self.crop_mode == "squash":
            return side, side
        shorter = min(width, height)
        return max(side, int(side * width / shorter)), max(side, int(side * height / shorter))
