"""Pictures of attention, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regard.errors import OptionError, ShapeError
from regard.explain.bias import neighborhood_index, reversed_index, swin_index
from regard.explain.tokens import resize
from regard.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
PANEL = 2.2
"""Inches."""
MAX_SIDE = 64
"""The most tokens per axis whose numbers can be read in a picture."""


def overlay(image: Tensor, maps: Mapping[str, Tensor], title: str, point: tuple[float, float] | None = None) -> Figure:
    """Draw maps over an image, one panel each, after a panel with the image alone.

    Args:
        image: `[3, H, W]` or `[1, H, W]`, values from 0 to 1.
        maps: `[h, w]` each, by title. Maps with negative values are shown without the image, in a diverging color map
            whose white is 0.
        title: of the figure.
        point: x and y of a pixel to mark.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    panels = 1 + len(maps)
    columns = min(panels, max(4, math.ceil(math.sqrt(panels))))
    figure, axes = _grid(math.ceil(panels / columns), columns, title)
    _show_image(axes[0], image, "image")
    for axis, (name, values) in zip(axes[1:panels], maps.items(), strict=True):
        if float(values.min()) < 0:
            limit = float(values.abs().max())
            axis.imshow(_array(values), cmap="RdBu_r", vmin=-limit, vmax=limit, extent=_extent(image))
        else:
            _show_image(axis, image, "", faded=True)
            sized = resize(values[None].float(), image.shape[1:])[0]
            heat = _array((sized / sized.max().clamp_min(torch.finfo(sized.dtype).tiny)).clamp(0, 1))
            axis.imshow(heat, cmap="inferno", alpha=heat**0.5, extent=_extent(image), vmin=0, vmax=1)
        axis.set_title(name, fontsize=8)
    for axis in axes[:panels]:
        if point is not None:
            axis.plot(
                *point, "o", markersize=5, markerfacecolor="none", markeredgecolor="tab:cyan", markeredgewidth=1.5
            )
    return figure


def bias_grids(kernel_size: int, grid: tuple[int, int], query: tuple[int, int], wrong: bool = False) -> Figure:
    """Draw which table entries a query reads in Swin and in NAT, side by side.

    Args:
        kernel_size: side of the window and of the neighborhood.
        grid: rows and columns of the tokens.
        query: row and column of the query.
        wrong: whether to add the widely copied wrong index, with its differences marked.
    """
    if kernel_size < 1 or max(grid) > MAX_SIDE:
        raise ShapeError(f"expected a kernel size from 1 and a grid up to {MAX_SIDE}, got {kernel_size=}, {grid=}")
    if not all(kernel_size <= length and 0 <= place < length for place, length in zip(query, grid, strict=True)):
        raise ShapeError(f"window and query must fit the grid {grid}, got {kernel_size=}, {query=}")
    panels = {
        "Swin: query minus key": _swin_panel(kernel_size, grid, query),
        "NAT: key minus query": _nat_panel(neighborhood_index(kernel_size, grid), kernel_size, grid, query),
    }
    if wrong:
        panels["widely copied, wrong"] = _nat_panel(reversed_index(kernel_size, grid), kernel_size, grid, query)
    figure, axes = _grid(1, len(panels), f"entries of the bias table read by the query at {query}", PANEL * 1.6)
    right = panels["NAT: key minus query"]
    for axis, (name, entries) in zip(axes, panels.items(), strict=True):
        axis.imshow(
            [[0 if (row, column) in entries else 1 for column in range(grid[1])] for row in range(grid[0])],
            cmap="Blues_r",
            vmin=-2,
            vmax=1,
        )
        for (row, column), (dy, dx) in entries.items():
            is_wrong = name.startswith("widely") and right[row, column] != (dy, dx)
            axis.text(
                column,
                row,
                f"{dy},{dx}",
                ha="center",
                va="center",
                fontsize=7,
                color="tab:red" if is_wrong else "black",
            )
        axis.add_patch(
            require("matplotlib.patches", "look").Rectangle(
                (query[1] - 0.5, query[0] - 0.5), 1, 1, fill=False, edgecolor="tab:orange", linewidth=2
            )
        )
        axis.set_title(name, fontsize=9)
    return figure


def bias_sheet(tables: Mapping[str, Tensor], title: str) -> Figure:
    """Draw learned tables, layers by heads; the center of a panel is a key at the query itself."""
    heads = max(len(table) for table in tables.values())
    figure, axes = _grid(len(tables), heads, title, PANEL * 0.6)
    for row, (layer, table) in enumerate(tables.items()):
        limit = float(table.abs().max())
        for head in range(heads):
            axis = axes[row * heads + head]
            if head < len(table) and table[head].ndim == 2:
                axis.imshow(_array(table[head]), cmap="RdBu_r", vmin=-limit, vmax=limit)
                if head == 0:
                    axis.set_title(layer, fontsize=5, loc="left")
    return figure


def save(figure: Figure, file: str | Path, ending: str | None = None) -> Path:
    """Write a figure as PNG, SVG or PDF, by the file's ending or by another one.

    Raises:
        OptionError: another format.
        OSError: the file cannot be written.
    """
    path = Path(file)
    ending = check_format(path if ending is None else f"x{ending}")
    figure.savefig(path, dpi=150, facecolor="white", format=ending.removeprefix("."))
    return path


def check_format(file: str | Path) -> str:
    """Return the ending of a picture's file; raise an `OptionError` if pictures cannot be written in that format."""
    ending = Path(file).suffix.lower()
    if ending not in FORMATS:
        raise OptionError.unknown("format of a picture", ending, FORMATS)
    return ending


def _grid(rows: int, columns: int, title: str, panel: float = PANEL) -> tuple[Figure, Sequence[Any]]:
    """Make a figure that belongs to no window, with its axes in one list."""
    figure = require("matplotlib.figure", "look").Figure(
        figsize=(max(3.0, panel * columns), panel * rows + 0.5), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure, axes


def _show_image(axis: Axes, image: Tensor, title: str, faded: bool = False) -> None:
    pixels = _array(image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1))
    axis.imshow(0.35 * pixels.mean(-1, keepdims=True).repeat(3, -1) + 0.65 if faded else pixels, extent=_extent(image))
    axis.set_title(title, fontsize=8)


def _extent(image: Tensor) -> tuple[float, float, float, float]:
    return 0, image.shape[2], image.shape[1], 0


def _swin_panel(size: int, grid: tuple[int, int], query: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the entry, row and column of the table, of every key in the query's window."""
    first = [place // size * size for place in query]
    index = swin_index((size, size))[(query[0] - first[0]) * size + query[1] - first[1]]
    return {
        (first[0] + place // size, first[1] + place % size): divmod(int(entry), 2 * size - 1)
        for place, entry in enumerate(index)
        if first[0] + place // size < grid[0] and first[1] + place % size < grid[1]
    }


def _nat_panel(
    index: Tensor, size: int, grid: tuple[int, int], query: tuple[int, int]
) -> dict[tuple[int, int], tuple[int, int]]:
    first = [min(max(place - size // 2, 0), length - size) for place, length in zip(query, grid, strict=True)]
    return {
        (first[0] + place // size, first[1] + place % size): divmod(int(entry), 2 * size - 1)
        for place, entry in enumerate(index[query])
    }


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
