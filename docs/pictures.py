"""Draw the pictures of README.md, of the site's first page and of the gallery, from photographs.

`python docs/pictures.py` writes them into docs/assets. The weights are written by hand, so nothing is downloaded and
every run draws the same. `--checkpoint nat_mini=nat_mini.pth` draws the mechanism of that model with these weights
instead; it can be given once per mechanism, and the weights may be whatever `regard look --weights` takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gallery import PICTURES
from matplotlib.figure import Figure
from panels import Cell, grid, mark, mask, photo, save, weights
from photographs import GRID, Subject, photograph, subjects

from regard.attention import MECHANISMS

ASSETS = Path(__file__).parent / "assets"
INK = {"light": "#1f2328", "dark": "#e6edf3"}
UNSEEN = {"light": 0.86, "dark": 0.22}
QUERY: Cell = (7, 8)


def overview(theme: str) -> Figure:
    """Draw what one token sees under every mechanism, on one photograph."""
    networks = {name: Subject.by_hand(subject.model, "china") for name, subject in subjects().items()}
    image = photograph("china")
    figure, axes = grid(2, 4, side=2.5)
    photo(axes[0], image, (GRID, GRID), "photograph and query")
    for axis, mechanism in zip(axes[1:], MECHANISMS, strict=True):
        attention = networks[mechanism.name].maps()[0]
        position = QUERY[0] * GRID + QUERY[1]
        values = attention.of_query(position)[0, 0].view(GRID, GRID)
        seen = None if attention.keys is None else mask(attention.keys[position], (GRID, GRID))
        weights(axis, image, values, mechanism.name.replace("_", " "), seen, UNSEEN[theme])
    for axis in axes:
        mark(axis, QUERY)
        axis.title.set(color=INK[theme], fontsize=11)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description="Draw the documentation's pictures.")
    parser.add_argument("folder", nargs="?", type=Path, default=ASSETS)
    parser.add_argument("--only", choices=PICTURES, help="draw one picture of the gallery")
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="MODEL=WEIGHTS", help="draw a mechanism with these weights"
    )
    args = parser.parse_args()
    (args.folder / "gallery").mkdir(parents=True, exist_ok=True)
    if args.only is None:
        for theme in INK:
            save(overview(theme), args.folder / f"mechanisms-{theme}.png", is_transparent=True)
    found = subjects()
    for checkpoint in args.checkpoint:
        subject = Subject.trained(*checkpoint.split("=", 1))
        found[subject.maps()[0].mechanism] = subject
    for name, draw in PICTURES.items():
        if args.only in (None, name):
            save(draw(found), args.folder / "gallery" / f"{name}.png")


if __name__ == "__main__":
    main()
