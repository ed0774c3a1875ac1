"""Which part of an image a token stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from regard.errors import ShapeError, UnsupportedError

MAX_PREFIX = 8
"""The most tokens in front of an image's own: class, distillation and register tokens."""


class Tokens(NamedTuple):
    """The tokens of one layer: some in front, which belong to no place, and a grid over the image.

    Attributes:
        prefix: number of tokens in front.
        grid: rows and columns.
    """

    prefix: int
    grid: tuple[int, int]

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return self.prefix + math.prod(self.grid)

    @classmethod
    def of(cls, grid: Sequence[int], size: tuple[int, int]) -> Tokens:
        """Recognize the tokens of a layer.

        Args:
            grid: the layer's own grid, of one axis or two.
            size: height and width of the images.

        Raises:
            UnsupportedError: the tokens form no grid over an image.

        Example: a class token and 14 x 14 patches of 16 pixels.
            >>> Tokens.of((197,), (224, 224))
            Tokens(prefix=1, grid=(14, 14))
        """
        if len(grid) == 2:
            return cls(0, (grid[0], grid[1]))
        if len(grid) == 1:
            for patch in range(1, min(size) + 1):
                rows, columns = size[0] // patch, size[1] // patch
                if 0 <= grid[0] - rows * columns <= MAX_PREFIX and size[0] % patch == size[1] % patch == 0:
                    return cls(grid[0] - rows * columns, (rows, columns))
        raise UnsupportedError(
            f"expected tokens that form a grid over images of {size[0]} x {size[1]} pixels, got {tuple(grid)}"
        )

    def at(self, x: float, y: float, size: tuple[int, int]) -> int:
        """Return the index of the token at a pixel.

        Args:
            x: column of the pixel, from the left.
            y: row of the pixel, from the top.
            size: height and width of the image.

        Raises:
            ShapeError: the pixel is outside of the image.

        Example:
            >>> Tokens(1, (14, 14)).at(223, 0, (224, 224))
            14
        """
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise ShapeError(
                f"the point must lie in the image, 0 <= x < {size[1]} and 0 <= y < {size[0]}, got x={x:g}, y={y:g}"
            )
        row, column = int(y * self.grid[0] / size[0]), int(x * self.grid[1] / size[1])
        return self.prefix + row * self.grid[1] + column

    def on_grid(self, values: Tensor) -> Tensor:
        """Return values of tokens, `[..., N]`, as `[..., h, w]`, without those in front."""
        return values[..., self.prefix :].unflatten(-1, self.grid)


def resize(values: Tensor, grid: Sequence[int]) -> Tensor:
    """Interpolate values `[B, h, w]` to another grid, for display."""
    return interpolate(values.unsqueeze(1), size=tuple(grid), mode="bilinear", align_corners=False).squeeze(1)


def spread(relevance: Tensor, grid: Sequence[int]) -> Tensor:
    """Distribute the relevance of tokens, `[B, h, w]`, over a finer or coarser grid, and keep its sum.

    A token gives equal parts to the tokens that it covers. Overlaps, as of strided convolutions, are not followed.

    Example:
        >>> import torch
        >>> spread(torch.ones(1, 1, 2), (2, 4))
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500],
                 [0.2500, 0.2500, 0.2500, 0.2500]]])
    """
    rows, columns = relevance.shape[-2:]
    fine = math.lcm(rows, grid[0]), math.lcm(columns, grid[1])
    up = fine[0] // rows, fine[1] // columns
    down = fine[0] // grid[0], fine[1] // grid[1]
    shares = relevance.repeat_interleave(up[0], -2).repeat_interleave(up[1], -1) / (up[0] * up[1])
    return adaptive_avg_pool2d(shares.unsqueeze(1), (grid[0], grid[1])).squeeze(1) * (down[0] * down[1])
