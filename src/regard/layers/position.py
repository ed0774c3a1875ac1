"""Absolute position embeddings of a grid: learned or sine and cosine, carried over to other grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from regard.errors import OptionError, ShapeError, UnsupportedError


def interpolate_position(
    embedding: Tensor, old_grid: Sequence[int], new_grid: Sequence[int], *, num_prefix_tokens: int = 0
) -> Tensor:
    """Carry a position embedding over to another grid, by bicubic interpolation with antialiasing.

    Args:
        embedding: `[N, C]` or `[1, N, C]`, the grid's positions in row-major order after the prefix tokens.
        old_grid: the grid it was learned on, one or two axes.
        new_grid: the grid wanted, as many axes.
        num_prefix_tokens: leading tokens without a place in the grid, such as a class token; they stay as they are.

    Returns:
        As `embedding`, with N of the new grid; the very tensor if the grids are equal.

    Raises:
        ShapeError: a number of tokens that is not the old grid's, or grids of unequal axes.
        UnsupportedError: a grid of three axes.

    Precision:
        Interpolates in float32, or float64 for float64 embeddings, and returns the embedding's dtype.

    Source:
        `resample_abs_pos_embed` in timm/layers/pos_embed.py (huggingface/pytorch-image-models 1.0): same values.

    Example:
        >>> interpolate_position(torch.randn(1, 1 + 14 * 14, 64), (14, 14), (16, 12), num_prefix_tokens=1).shape
        torch.Size([1, 193, 64])
    """
    tokens = math.prod(old_grid) + num_prefix_tokens
    if embedding.ndim not in (2, 3) or embedding.shape[-2] != tokens or embedding.shape[:-2] not in ((), (1,)):
        raise ShapeError(
            f"embedding must be [{tokens}, C] or [1, {tokens}, C] for grid {tuple(old_grid)} and {num_prefix_tokens=}, "
            f"got {list(embedding.shape)}; check old_grid and num_prefix_tokens"
        )
    if len(old_grid) != len(new_grid) or any(length < 1 for length in (*new_grid, *old_grid)):
        raise ShapeError(f"old_grid and new_grid must have equal axes of at least 1, got {old_grid} and {new_grid}")
    is_dynamic = any(isinstance(length, torch.SymInt) for length in new_grid)  # then the program serves any grid
    if not is_dynamic and tuple(old_grid) == tuple(new_grid):
        return embedding
    if len(old_grid) > 2:
        raise UnsupportedError(
            f"position embeddings are interpolated over one or two axes, got grid {tuple(old_grid)}; "
            "keep the grid they were made for"
        )
    prefix, places = embedding.split((num_prefix_tokens, math.prod(old_grid)), dim=-2)
    rows = (1,) * (2 - len(old_grid))  # a grid of one axis is one row
    image = places.reshape(1, *rows, *old_grid, -1).movedim(-1, 1)  # [1, C, H, W]
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    image = interpolate(image, size=(*rows, *new_grid), mode="bicubic", antialias=True)
    places = image.flatten(2).transpose(1, 2).to(embedding.dtype)  # [1, N, C]
    return torch.cat([prefix, places.reshape(*embedding.shape[:-2], -1, embedding.shape[-1])], dim=-2)


def interpolate_bias(table: Tensor, size: Sequence[int]) -> Tensor:
    """Carry a relative bias table over to another window, by bicubic interpolation.

    Args:
        table: `[nh, 2 * kh - 1, 2 * kw - 1]`.
        size: the two lengths wanted, twice the window less one.

    Returns:
        `[nh, *size]`, in the table's dtype.

    Source:
        `load_pretrained` in microsoft/Swin-Transformer, utils.py, also behind the published 11 x 11 DiNAT.

    Example:
        >>> interpolate_bias(torch.randn(3, 13, 13), (23, 23)).shape
        torch.Size([3, 23, 23])
    """
    wide = table[None].to(torch.promote_types(table.dtype, torch.float32))
    return interpolate(wide, size=tuple(size), mode="bicubic")[0].to(table.dtype)


def sincos_position(
    grid: Sequence[int], dim: int, *, temperature: float = 10000.0, device: torch.device | str | None = None
) -> Tensor:
    """Embed every position of a grid by sines and cosines of its coordinates.

    Each axis has dim / (2 * axes) frequencies, temperature ** (-i / their number). The sines come first, axis by axis,
    then the cosines.

    Args:
        grid: lengths of one, two or three axes.
        dim: channels, a multiple of twice the number of axes.
        temperature: how much slower the slowest frequency would be than the fastest, 1 per position.
        device: where to make it.

    Returns:
        float32, `[*grid, dim]`.

    Source:
        ViT baselines (arXiv 2205.01580) and MoCo v3 (2104.02057) but for the order of channels, which is that of
        `build_sincos2d_pos_embed` in timm/layers/pos_embed_sincos.py.

    Example: sines of both coordinates, then cosines.
        >>> sincos_position((2, 2), 4)[1, 0]
        tensor([0.8415, 0.0000, 0.5403, 1.0000])
    """
    axes = len(grid)
    if axes not in (1, 2, 3) or any(length < 1 for length in grid):
        raise ShapeError(f"grid must have 1, 2 or 3 axes of at least 1, got {tuple(grid)}")
    if dim < 1 or dim % (2 * axes):
        raise ShapeError(f"dim must be a positive multiple of 2 * axes = {2 * axes}, got {dim}")
    count = dim // (2 * axes)
    frequencies = 1 / temperature ** (torch.arange(count, dtype=torch.float32, device=device) / count)
    coordinates = torch.meshgrid(*(torch.arange(length, device=device) for length in grid), indexing="ij")
    angles = torch.stack(coordinates, dim=-1).unsqueeze(-1) * frequencies  # [*grid, axes, count]
    return torch.cat([angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


class PositionEmbedding(nn.Module):
    """Add a position embedding to `[B, *grid, C]`.

    Args:
        dim: channels C.
        grid: the grid it is made for; on another one it is interpolated, see `interpolate_position`.
        kind: "learned", the parameter `embedding`, `[1, N, C]`; or "sincos", without parameters, see `sincos_position`.

    Example:
        >>> PositionEmbedding(32, (14, 14))(torch.randn(1, 10, 16, 32)).shape
        torch.Size([1, 10, 16, 32])
    """

    def __init__(self, dim: int, grid: Sequence[int], *, kind: Literal["learned", "sincos"] = "learned") -> None:
        super().__init__()
        if kind not in ("learned", "sincos"):
            raise OptionError.unknown("kind", kind, ("learned", "sincos"))
        if dim < 1 or len(grid) not in (1, 2, 3) or any(length < 1 for length in grid):
            raise ShapeError(f"dim and the 1, 2 or 3 axes of grid must be at least 1, got {dim=} and {grid=}")
        self.dim = dim
        self.grid = tuple(grid)
        self.embedding: nn.Parameter | None
        if kind == "learned":
            self.embedding = nn.Parameter(torch.empty(1, math.prod(grid), dim))
            nn.init.trunc_normal_(self.embedding, std=0.02)
        else:
            self.register_parameter("embedding", None)

    def forward(self, x: Tensor) -> Tensor:
        """Add the embedding, `[B, *grid, C]` to the same shape."""
        grid = x.shape[1:-1]
        if len(grid) != len(self.grid) or x.shape[-1] != self.dim:
            raise ShapeError(f"x must be [B, {len(self.grid)} grid axes, {self.dim}], got {list(x.shape)}")
        if self.embedding is None:
            embedding = sincos_position(self.grid, self.dim, device=x.device).flatten(0, -2)
        else:
            embedding = self.embedding
        return x + interpolate_position(embedding, self.grid, grid).reshape(*grid, self.dim).to(x.dtype)

    def extra_repr(self) -> str:
        """Name what the parameters' shapes do not tell."""
        return f"dim={self.dim}, grid={self.grid}, kind={'sincos' if self.embedding is None else 'learned'!r}"
