"""How well a map tells what a model needs: deletion and insertion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from regard.errors import OptionError, ShapeError
from regard.explain.tokens import resize

Filling = Literal["blur", "gray"]
"""What replaces deleted pixels: the blurred image, or its mean color."""


@dataclass(frozen=True)
class Faithfulness:
    """Curves of a model's probability for a class while pixels are deleted or inserted, the most important ones first.

    Attributes:
        deletion: `[B, steps + 1]`, from the whole image to none of it. A good map lets it fall early.
        insertion: `[B, steps + 1]`, from none of the image to all of it. A good map lets it rise early.
    """

    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """The area under the deletion curve, `[B]`, from 0 to 1; smaller is better."""
        return torch.trapezoid(self.deletion, dx=1 / (self.deletion.shape[1] - 1))

    @property
    def insertion_area(self) -> Tensor:
        """The area under the insertion curve, `[B]`, from 0 to 1; larger is better."""
        return torch.trapezoid(self.insertion, dx=1 / (self.insertion.shape[1] - 1))


@torch.no_grad()
def faithfulness(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    target: Tensor | None = None,
    *,
    steps: int = 32,
    filling: Filling = "blur",
) -> Faithfulness:
    """Delete and insert the pixels of images in the order of maps, and watch the probability of a class.

    Args:
        model: in evaluation mode; returns logits.
        images: `[B, C, H, W]`, preprocessed.
        maps: `[B, h, w]`, larger where the image matters more; interpolated to the images' size.
        target: classes `[B]`; None takes those that the model predicts.
        steps: how many parts the pixels are divided into.
        filling: "blur" shows a strongly blurred image where pixels are deleted, "gray" the image's mean color.

    Raises:
        ShapeError: maps and images that do not fit together.
        OptionError: an unknown filling, or less than one step.

    Cost:
        2 * steps + 2 forward passes.

    Source:
        Petsiuk, Das and Saenko, RISE (arXiv 1806.07421, section 4.3).

    Example: a model whose only class is the brightness of the upper left pixel.
        >>> class Corner(nn.Module):
        ...     def forward(self, x):
        ...         return torch.stack([10 * x[:, 0, 0, 0], torch.full((len(x),), 5.0)], 1)
        >>> image, map = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
        >>> image[..., 0, 0], map[..., 0, 0] = 1, 1
        >>> result = faithfulness(Corner(), image, map, steps=16, filling="gray")
        >>> result.deletion_area < 0.1, result.insertion_area > 0.9
        (tensor([True]), tensor([True]))
    """
    if maps.ndim != 3 or images.ndim != 4 or len(maps) != len(images):
        raise ShapeError(
            f"maps must be [B, h, w] for images [B, C, H, W], got {list(maps.shape)}, {list(images.shape)}"
        )
    if steps < 1:
        raise OptionError(f"steps must be at least 1, got {steps}")
    filled = _filled(images, filling)
    if target is None:
        target = model(images).argmax(1)
    pixels = images.shape[2] * images.shape[3]
    order = resize(maps.to(images.dtype), images.shape[2:]).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).reshape(len(images), 1, *images.shape[2:])  # 0 is the most important pixel
    curves = []
    for shown_first, shown_last in ((filled, images), (images, filled)):
        curve = []
        for step in range(steps + 1):
            mixed = torch.where(rank < step * pixels / steps, shown_first, shown_last)
            curve.append(model(mixed).softmax(1).gather(1, target.unsqueeze(1)).squeeze(1))
        curves.append(torch.stack(curve, 1))
    return Faithfulness(*curves)


def center_map(images: Tensor) -> Tensor:
    """Return a baseline that knows nothing of the images: the closer to the center, the more important."""
    rows, columns = (torch.linspace(-1, 1, length, device=images.device) for length in images.shape[2:])
    return -(rows[:, None] ** 2 + columns**2).expand(len(images), -1, -1)


def random_map(images: Tensor, seed: int = 0) -> Tensor:
    """Return a baseline of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(images), *images.shape[2:], generator=generator).to(images.device)


def _filled(images: Tensor, filling: str) -> Tensor:
    if filling == "gray":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if filling != "blur":
        raise OptionError.unknown("filling", filling, ("blur", "gray"))
    radius = max(1, min(images.shape[2:]) // 8)
    blurred = images
    for _ in range(3):  # three averages are close to a Gaussian
        padded = pad(blurred, [radius] * 4, mode="replicate")
        blurred = avg_pool2d(padded, 2 * radius + 1, stride=1)
    return blurred
