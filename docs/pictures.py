"""Draw what one query sees under each mechanism, for the site's first page and for README.md.

`python docs/pictures.py` writes docs/assets/mechanisms-light.svg and docs/assets/mechanisms-dark.svg. Every panel but
the first shows the weights that the library's own functions return for one query on a grid of 14 x 14 tokens. The query
is framed, and tokens that it does not see are gray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import regard
from regard.attention import MECHANISMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASSETS = Path(__file__).parent / "assets"
GRID = 14
QUERY = (4, 8)
INK = {"light": "#222222", "dark": "#e6e6e6"}
UNSEEN = {"light": "#e9e9e9", "dark": "#3a3d45"}


def image() -> Tensor:
    """Return a smooth image of two bright spots, `[GRID, GRID]` between 0 and 1."""
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    spots = ((4, 9, 9.0), (10, 3, 6.0))
    values = torch.stack([(-((rows - y) ** 2 + (columns - x) ** 2) / size).exp() for y, x, size in spots])
    return values.sum(0).clamp(0, 1)


def tokens() -> Tensor:
    """Return query and key in one: tokens `[1, GRID, GRID, 1, 4]` that are alike where the image is."""
    angle = image() * 2.5
    waves = torch.stack([angle.cos(), angle.sin(), (angle / 2).cos(), (angle / 2).sin()], -1)
    return 2.0 * waves[None, :, :, None]


def softmax(x: Tensor) -> Tensor:
    """Return the query's row of the weights."""
    return regard.softmax_weights(x, x)[0, 0, QUERY[0] * GRID + QUERY[1]].view(GRID, GRID)


def talking_heads(x: Tensor) -> Tensor:
    """Return the first head's row, mixed from two heads whose keys differ."""
    query, key = torch.cat([x, x], -2), torch.cat([x, x.roll(5, 2)], -2)
    mix = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    return regard.talking_heads_weights(query, key, mix, mix)[0, 0, QUERY[0] * GRID + QUERY[1]].view(GRID, GRID)


def window(x: Tensor) -> Tensor:
    """Return the row in the query's window, on the whole grid."""
    size = 7
    weights = regard.window_weights(x, x, size)  # [1, 2, 2, 1, T, T]
    (row, y), (column, x_) = divmod(QUERY[0], size), divmod(QUERY[1], size)
    whole = torch.full((GRID, GRID), torch.nan)
    inside = weights[0, row, column, 0, y * size + x_].view(size, size)
    whole[row * size : (row + 1) * size, column * size : (column + 1) * size] = inside
    return whole


def neighborhood(x: Tensor) -> Tensor:
    """Return the weights of the query's neighbors, on the whole grid."""
    size = 5
    weights = regard.neighborhood_weights(x, x, size)  # [1, GRID, GRID, 1, K]
    whole = torch.full((GRID, GRID), torch.nan)
    top, left = (min(max(place - size // 2, 0), GRID - size) for place in QUERY)
    whole[top : top + size, left : left + size] = weights.view(GRID, GRID, size, size)[QUERY]
    return whole


def additive(x: Tensor) -> Tensor:
    """Return alpha, the same for every query."""
    score = torch.tensor([[-2.0, 1.0, -1.0, 1.0]])
    return regard.additive_weights(x, x, score, score)[0][0, ..., 0]


def efficient_additive(x: Tensor) -> Tensor:
    """Return the sizes of the signed weights, the same for every query."""
    return regard.efficient_additive_weights(x[..., 0, :], torch.tensor([-0.6, 0.7, 0.1, 1.0]))[0].abs()


def separable(x: Tensor) -> Tensor:
    """Return the weights of the tokens with the query's place in their patches."""
    patch = 2
    weights = regard.separable_weights(x[..., 0, 1:2], patch_size=patch)[0]
    whole = torch.full((GRID, GRID), torch.nan)
    place = (slice(QUERY[0] % patch, None, patch), slice(QUERY[1] % patch, None, patch))
    whole[place] = weights[place]
    return whole


PANELS: Mapping[str, Callable[[Tensor], Tensor]] = {
    panel.__name__: panel
    for panel in (softmax, talking_heads, window, neighborhood, additive, efficient_additive, separable)
}


def draw_panel(axes: Axes, values: Tensor, title: str, theme: str) -> None:
    """Draw a map over the tokens, the query framed."""
    ink = INK[theme]
    axes.set_facecolor(UNSEEN[theme])
    axes.imshow(values.numpy(), cmap="gray" if title == "image and query" else "viridis", interpolation="none", vmin=0)
    axes.add_patch(Rectangle((QUERY[1] - 0.5, QUERY[0] - 0.5), 1, 1, fill=False, edgecolor="#ff4d2e", linewidth=2))
    axes.set_title(title, color=ink, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(ink)
        spine.set_alpha(0.4)


def draw(theme: str) -> Figure:
    """Draw the image and one panel per mechanism."""
    x = tokens()
    panels = [(m.name.replace("_", " "), PANELS[m.name](x)) for m in MECHANISMS if m.name in PANELS]
    panels = [("image and query", image()), *panels]
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(9.6, 2.5 * rows), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(rows, 4).flat, panels, strict=False):
        draw_panel(axes, values, title, theme)
    figure.patch.set_alpha(0)
    return figure


def main(folder: Path = ASSETS) -> None:
    """Write both pictures into a folder."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "regard", "font.family": "sans-serif"})
    for theme in INK:
        path = folder / f"mechanisms-{theme}.svg"
        draw(theme).savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
