"""Photographs as tokens, and networks whose weights are written by hand, for the pictures of the documentation.

The photographs are scikit-learn's samples. Both are licensed CC BY 2.0; docs/guides/gallery.md names the authors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

import regard
from regard import explain
from regard.explain import AttentionMap, Tokens
from regard.models import Backbone
from regard.surgery import adapt
from regard.training import Classifier

GRID = 14
SIDE = 16 * GRID
CROPS = {"china": (0, 8), "flower": (0, 96)}
"""The top and left pixel of the square that is shown of each photograph."""
BY_HAND = "weights by hand"


def photograph(name: str) -> Tensor:
    """Return a square part of a sample photograph, `[1, 3, S, S]`, values from 0 to 1."""
    top, left = CROPS[name]
    pixels = torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1) / 255
    side = min(pixels.shape[1] - top, pixels.shape[2] - left)
    return pixels[None, :, top : top + side, left : left + side]


def as_input(image: Tensor) -> Tensor:
    """Return a photograph at the size that the networks expect, `[1, 3, SIDE, SIDE]`."""
    return interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True)


def colors(images: Tensor, side: int = GRID) -> Tensor:
    """Return the mean color of every token as warmth, brightness and greenness, `[B, side, side, 3]` around 0."""
    red, green, blue = adaptive_avg_pool2d(images, (side, side)).unbind(1)
    return torch.stack([red - blue, (red + green + blue) / 3 - 0.5, green - (red + blue) / 2], -1)


def places(images: Tensor, side: int = GRID) -> Tensor:
    """Return row, column and 0 for every token, `[B, side, side, 3]`, from -0.5 to 0.5."""
    along = torch.linspace(-0.5, 0.5, side)
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)], -1).expand(len(images), -1, -1, -1)


def alike(features: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Return query and key, `[B, GRID, GRID, 1, hd]` each, whose weights fall with the distance of the features.

    The logits are `-sharpness * |f_i - f_j|^2`, without the part that is the same for all keys of a query.
    """
    ones = torch.ones_like(features[..., :1])
    query = torch.cat([2 * sharpness * features, -sharpness * ones], -1)
    key = torch.cat([features, features.square().sum(-1, keepdim=True)], -1)
    return query.unsqueeze(-2), key.unsqueeze(-2)


HEADS: Mapping[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {
    "similar color": lambda images, side: alike(colors(images, side), 30.0),
    "similar brightness": lambda images, side: alike(colors(images, side)[..., 1:2].expand(-1, -1, -1, 3), 20.0),
    "nearby": lambda images, side: alike(places(images, side), 20.0),
    "uniform": lambda images, side: alike(places(images, side), 0.0),
}
"""What the heads of the networks compare."""

Layer = Callable[[Tensor, Tensor], object]
"""Takes query and key, `[B, GRID, GRID, nh, hd]`, and calls a function of regard."""


class ByHand(nn.Module):
    """Layers of attention whose queries and keys are written by hand.

    Args:
        layers: called in turn.
        heads: names from `HEADS`.
        side: rows and columns of the tokens.
    """

    def __init__(self, layers: Sequence[Layer], heads: Sequence[str] = ("similar color",), side: int = GRID) -> None:
        super().__init__()
        self.layers, self.heads, self.side = tuple(layers), tuple(heads), side

    def forward(self, images: Tensor) -> Tensor:
        """Call all layers on the tokens of `[B, 3, SIDE, SIDE]`."""
        pairs = [HEADS[head](images, self.side) for head in self.heads]
        query, key = (torch.cat(one, -2) for one in zip(*pairs, strict=True))
        for layer in self.layers:
            layer(query, key)
        return images


def softmax(query: Tensor, key: Tensor) -> object:
    """Call softmax attention."""
    return regard.softmax_attention(query, key, key, scale=1.0)


LOGITS_MIX = torch.eye(3)
WEIGHTS_MIX = torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, -0.6], [0.0, 1.0, -0.6]])
"""One row per new head: color and nearby; color but not nearby; brightness but not nearby."""


def talking_heads(query: Tensor, key: Tensor) -> object:
    """Call talking-heads attention of three heads, mixed after the softmax only."""
    return regard.talking_heads_attention(query, key, key, LOGITS_MIX, WEIGHTS_MIX, scale=1.0)


def window(query: Tensor, key: Tensor, size: int = 7, shift: int = 0) -> object:
    """Call window attention."""
    return regard.window_attention(query, key, key, size, shift_size=shift, scale=1.0)


def shifted_window(query: Tensor, key: Tensor) -> object:
    """Call window attention, shifted by half a window."""
    return window(query, key, shift=3)


def neighborhood(query: Tensor, key: Tensor, size: int = 5, dilation: int = 1) -> object:
    """Call neighborhood attention."""
    return regard.neighborhood_attention(query, key, key, size, dilation=dilation, scale=1.0)


class Additive(nn.Module):
    """Additive attention whose first scores prefer warm colors; the second compare keys with the first context."""

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        query = colors(images).unsqueeze(-2)
        warm, all_channels = torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[20.0, 20.0, 20.0]])
        return regard.additive_attention(query, query, warm, all_channels, scale=1.0)


class EfficientAdditive(nn.Module):
    """Efficient additive attention whose learned vector asks for warm colors."""

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        query = colors(images)
        return regard.efficient_additive_attention(query, query, torch.tensor([1.0, 0.0, 0.0]))[0]


class Separable(nn.Module):
    """Separable attention whose scores are the warmth of the tokens."""

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        features = colors(images)
        return regard.separable_attention(6 * features[..., :1], features, features, patch_size=2)


@dataclass(frozen=True)
class Subject:
    """A network and a photograph.

    Attributes:
        model: in evaluation mode.
        inputs: what the network is called on, `[1, 3, S, S]`.
        shown: the same part of the photograph for display.
        weights: the name of the trained model, or BY_HAND, for the title of a picture.
    """

    model: nn.Module
    inputs: Tensor
    shown: Tensor
    weights: str = BY_HAND

    @classmethod
    def trained(cls, model: str, weights: str) -> Subject:
        """Show a trained model of regard or timm a sample photograph; `weights` are those of `regard look`."""
        classifier = Classifier.open(model, weights)
        network = classifier.model
        if not isinstance(network, Backbone):
            adapt(network, inplace=True)
        pixels = (photograph("china")[0].permute(1, 2, 0) * 255).round().byte().numpy()
        given = classifier.preprocessing
        inputs = given(Image.fromarray(pixels))[None]
        mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
        return cls(network, inputs, inputs * std + mean, model)

    @classmethod
    def by_hand(cls, model: nn.Module, photo: str = "china") -> Subject:
        """Show a network whose weights are written by hand a sample photograph."""
        shown = photograph(photo)
        return cls(model.eval(), as_input(shown), shown)

    def maps(self, *, mixed: bool = True) -> list[AttentionMap]:
        """Return the attention of the layers whose tokens form a grid of about `GRID` x `GRID`."""
        found = explain.attention_maps(self.model, self.inputs, mixed=mixed)
        size = (self.inputs.shape[2], self.inputs.shape[3])
        grids = [Tokens.of(one.key_grid, size).grid for one in found]
        best = min(grids, key=lambda grid: abs(grid[0] - GRID))
        return [one for one, grid in zip(found, grids, strict=True) if grid == best and one.weights.shape[2] > 1]


def subjects() -> dict[str, Subject]:
    """Return a network per mechanism, whose weights are written by hand."""
    return {
        "softmax": Subject.by_hand(ByHand([softmax])),
        "talking_heads": Subject.by_hand(ByHand([talking_heads], ["similar color", "similar brightness", "nearby"])),
        "window": Subject.by_hand(ByHand([window, shifted_window])),
        "neighborhood": Subject.by_hand(ByHand([neighborhood]), "flower"),
        "additive": Subject.by_hand(Additive(), "flower"),
        "efficient_additive": Subject.by_hand(EfficientAdditive(), "flower"),
        "separable": Subject.by_hand(Separable(), "flower"),
    }
