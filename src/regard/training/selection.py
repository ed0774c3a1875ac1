"""Choose images: files, folders, patterns, and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

from regard.errors import BrokenImageError, DataError
from regard.training.images import SUFFIXES, find_images

STANDARD_INPUT = "-"


def select_images(names: Sequence[str | Path], lines: Iterable[str] | None = None) -> list[Path]:
    """Return the image files that names stand for, in the order of the names.

    Args:
        names: files, which may be missing; folders, whose images are taken recursively; patterns with `*`, `?`, `[]`
            and `**`; or "-" for one file per line of standard input. Files of folders and patterns count if they have
            the suffix of an image.
        lines: the lines of standard input. Default: `sys.stdin`.

    Raises:
        TypeError: `names` is one name instead of a list.
        DataError: a folder, a pattern or standard input names no image.
        BrokenImageError: none of the files exists.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for name in ("b.png", "a.jpg", "notes.txt"):
        ...     (folder / name).touch()
        >>> [image.name for image in select_images([folder, folder / "*.png"])]
        ['a.jpg', 'b.png', 'b.png']
    """
    if isinstance(names, str | Path):
        raise TypeError(f"images must be a list of files, got {str(names)!r}; pass a list: [{str(names)!r}]")
    images = [image for name in names for image in _expand(str(name), sys.stdin if lines is None else lines)]
    if images and not any(image.exists() for image in images):
        raise BrokenImageError(dict.fromkeys(images, "does not exist"), remedy="check the names")
    return images


def _expand(name: str, lines: Iterable[str]) -> list[Path]:
    path = Path(name)
    if name == STANDARD_INPUT:
        images, where = [Path(line.strip()) for line in lines if line.strip()], "on standard input, one path per line"
    elif path.is_dir():
        images, where = find_images(path)[0], f"in the folder {name!r}"
    elif path.exists() or not has_magic(name):
        return [path]
    else:
        found = sorted(map(Path, glob(name, recursive=True)))  # noqa: PTH207  # as in shells, without hidden files
        images, where = [each for each in found if _is_image(each)], f"for the pattern {name!r}"
    if not images:
        raise DataError(f"expected images {where}, got none; check the name")
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
