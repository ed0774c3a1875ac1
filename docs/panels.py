"""Panels of the documentation's pictures: photographs, tokens and weights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.rcParams.update(
    {"font.family": "DejaVu Sans", "font.size": 9, "savefig.dpi": 120, "figure.constrained_layout.h_pad": 0.06}
)

PANEL = 2.3
"""Inches."""
UNSEEN = 0.86
"""Gray of tokens that a query does not see."""
MARKS = ("#ff2d78", "#00a2ff", "#ff8c00")
"""Colors of framed queries."""
Cell = tuple[int, int]
"""Row and column of a token."""


def grid(rows: int, columns: int, title: str = "", side: float = PANEL) -> tuple[Figure, list[Any]]:
    """Make a figure of square panels, with its axes in one list."""
    figure = Figure(figsize=(side * columns, (side + 0.2) * rows + (0.3 if title else 0)), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes


def photo(axes: Axes, image: Tensor, cells: Sequence[int], title: str) -> None:
    """Draw a photograph, `[1, 3, S, S]`, whose tokens have the coordinates of a grid."""
    axes.imshow(_pixels(image), extent=_extent(cells), interpolation="antialiased")
    axes.set_title(title, fontsize=9)


def weights(  # noqa: ANN201  # matplotlib's
    axes: Axes, image: Tensor, values: Tensor, title: str, seen: Tensor | None = None, unseen: float = UNSEEN
):
    """Draw weights `[h, w]` over a photograph.

    Args:
        axes: of one panel.
        image: `[1, 3, S, S]`.
        values: negative ones make the color map diverging, with white at 0.
        title: of the panel.
        seen: `[h, w]`; other tokens are gray.
        unseen: their gray.

    Returns:
        What `Figure.colorbar` takes.
    """
    array = values.numpy()
    limit = max(float(np.abs(array).max()), 1e-12)
    signed = bool((array < 0).any())
    gray = _pixels(image).mean(-1, keepdims=True).repeat(3, -1) * (0.75 if signed else 1)  # below the white of weight 0
    axes.imshow(gray, extent=_extent(array.shape), interpolation="antialiased", vmin=0, vmax=1)
    scale = mpl.colors.Normalize(-limit if signed else 0, limit)
    colors = mpl.cm.ScalarMappable(scale, "RdBu_r" if signed else "viridis")
    rgba = colors.to_rgba(array)
    rgba[..., 3] = 0.82
    if seen is not None:
        rgba[~seen.numpy()] = [unseen, unseen, unseen, 0.93]
    axes.imshow(rgba, extent=_extent(array.shape), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    return colors


def groups(axes: Axes, image: Tensor, numbers: Tensor, title: str, alpha: float = 0.55) -> None:
    """Draw groups of tokens, `[h, w]` with a number per group, each in a color; negative numbers are gray."""
    palette = np.array(mpl.colormaps["tab20"].colors)
    order = np.arange(20).reshape(10, 2).T.flatten()  # adjacent groups differ in hue
    array = numbers.numpy()
    rgba = np.concatenate([palette[order][array % 20], np.full((*array.shape, 1), alpha)], -1)
    rgba[array < 0] = [UNSEEN, UNSEEN, UNSEEN, 0.93]
    axes.imshow(_pixels(image), extent=_extent(array.shape), interpolation="antialiased")
    axes.imshow(rgba, extent=_extent(array.shape), interpolation="nearest")
    axes.set_title(title, fontsize=9)


def mark(axes: Axes, cell: Cell, color: str = MARKS[0], height: int = 1, width: int = 1) -> None:
    """Frame a token, or a rectangle of tokens whose first one is given."""
    for line, shade in ((3.4, "white"), (2.0, color)):
        axes.add_patch(Rectangle(cell[::-1], width, height, fill=False, edgecolor=shade, linewidth=line))


def lines(axes: Axes, rows: Sequence[float], columns: Sequence[float]) -> None:
    """Draw the borders of windows."""
    for draw, places in ((axes.axhline, rows), (axes.axvline, columns)):
        for place in places:
            draw(place, color="white", linewidth=1.5)


def save(figure: Figure, file: Path, *, is_transparent: bool = False) -> None:
    """Write a figure as a PNG file of 256 colors, the same for every run."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=is_transparent)
    image = Image.open(buffer)
    if not is_transparent:
        image = image.convert("RGB")
    image = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    if not is_transparent:
        palette, background = image.getpalette(), image.getpixel((0, 0))
        palette[3 * background : 3 * background + 3] = [255, 255, 255]  # the octree's is a shade darker
        image.putpalette(palette)
    image.save(file, optimize=True)


def mask(positions: Tensor, cells: Sequence[int]) -> Tensor:
    """Return which tokens of a grid are among the positions, which may contain -1 for none."""
    found = torch.zeros(cells[0] * cells[1] + 1, dtype=torch.bool)
    found[positions] = True
    return found[:-1].view(cells[0], cells[1])


def _pixels(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).clamp(0, 1).numpy()


def _extent(cells: Sequence[int]) -> tuple[float, float, float, float]:
    return 0, cells[1], cells[0], 0
