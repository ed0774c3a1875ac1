"""Confusion matrices: which classes a model takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from regard.errors import OptionError
from regard.extras import require

OTHER = "other"
MAX_COUNTED = 25  # classes whose counts are written into the cells
MAX_NAMED = 100  # names that are written beside the matrix
MAX_CELLS = 250  # cells per side that are large enough to be seen
NAME_LENGTH = 24  # characters of a name in a plot
DPI = 120


@dataclass(frozen=True, eq=False)
class Confusion:
    """The predictions for the images of each class.

    Attributes:
        classes: names of the n classes in the data.
        counts: images by class (row) and predicted class (column), `[n, n + 1]`. The last column counts predictions of
            classes that the data do not have.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    def errors(self) -> list[tuple[str, str, int]]:
        """Return class, predicted class and number of images of all confusions, the most frequent first.

        Example:
            >>> count(np.array([0, 0, 1]), np.array([1, 1, 1]), ("cat", "dog")).errors()
            [('cat', 'dog', 2)]
        """
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        names = (*self.classes, OTHER)
        cells = zip(rows, columns, wrong[rows, columns].tolist(), strict=True)
        return sorted(((names[row], names[column], images) for row, column, images in cells), key=lambda each: -each[2])


def count(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> Confusion:
    """Return the confusion matrix of predictions.

    Args:
        labels: class of each image, `[N]`, an index into `classes`.
        predictions: predicted class of each image, `[N]`; `len(classes)` for any other class.
        classes: names of the n classes.
    """
    size = len(classes)
    cells = np.bincount(labels * (size + 1) + predictions, minlength=size * (size + 1))
    return Confusion(tuple(classes), cells.reshape(size, size + 1))


def check_picture(file: Path) -> None:
    """Check that matplotlib is installed and writes files with this suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OptionError: an unknown suffix.
    """
    known = require("matplotlib.figure", extra="train").Figure().canvas.get_supported_filetypes()
    if file.suffix.lower().removeprefix(".") not in known:
        raise OptionError(
            f"expected a picture's suffix, such as .png, .pdf or .svg, got {str(file)!r}; change the name"
        )


def draw(confusion: Confusion, title: str, file: Path, suffix: str = ".png") -> None:
    """Plot a confusion matrix; colors show the share of each class's images.

    Up to 25 classes, cells have counts; up to 100, all rows and columns have names. Of more than 250 classes, blocks of
    cells are drawn in the color of their largest share, since single cells could not be seen.

    Args:
        confusion: the matrix.
        title: title of the plot.
        file: the file to write.
        suffix: format of the file.
    """
    counts, names = confusion.counts, [shorten(name) for name in (*confusion.classes, OTHER)]
    if not counts[:, -1].any():
        counts, names = counts[:, :-1], names[:-1]
    size = len(confusion.classes)
    side = min(max(4.5, 0.32 * size), 16)
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    root = require("matplotlib.colors", extra="train").PowerNorm(0.5, 0, 1)  # rare confusions stay visible
    block = ceil(size / MAX_CELLS)
    height, width = shares.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    image = axes.imshow(reduce_blocks(shares, block), cmap="Blues", norm=root, interpolation="nearest", extent=extent)
    label = "share of the class's images" + (f", largest of {block} x {block} cells" if block > 1 else "")
    figure.colorbar(image, label=label, shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="class", title=title)
    step, font = ceil(size / MAX_NAMED), 9 if size <= MAX_COUNTED else 7
    axes.set_xticks(range(0, width, step), names[::step], rotation=90, fontsize=font)
    axes.set_yticks(range(0, size, step), names[:size:step], fontsize=font)
    if size <= MAX_COUNTED:
        for (row, column), number in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.35 else "black"
            if number:
                axes.text(column, row, str(number), ha="center", va="center", fontsize=8, color=color)
    figure.savefig(file, dpi=DPI, format=suffix.lower().removeprefix("."))


def reduce_blocks(cells: np.ndarray, block: int) -> np.ndarray:
    """Return the largest value of each block of `block` x `block` cells.

    Example:
        >>> reduce_blocks(np.eye(3), 2)
        array([[1., 0.],
               [0., 1.]])
    """
    for axis in range(cells.ndim):
        cells = np.maximum.reduceat(cells, np.arange(0, cells.shape[axis], block), axis=axis)
    return cells


def shorten(name: str) -> str:
    """Return the first synonym of a name, cut to 24 characters.

    Example:
        >>> shorten("great white shark, white shark, man-eater")
        'great white shark'
    """
    first = name.split(",")[0]
    return first if len(first) <= NAME_LENGTH else f"{first[: NAME_LENGTH - 1]}…"
