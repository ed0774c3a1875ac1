"""Sources of labeled images: scikit-learn's handwritten digits, and folders with one subfolder per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from regard.errors import DataError
from regard.extras import require
from regard.training.images import find_images, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

Example = tuple["Path | Image", int]
"""An image or its file, and the index of its class."""

DIGITS = "digits"
TEST_SIDES = ("val", "test")
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Source:
    """Labeled images, split for training and testing.

    Attributes:
        classes: the names of the classes; a label is an index into them.
        train: the training images.
        test: the test images.
        ignored: number of files in the folder that are hidden or not images.
        skipped: broken images that were left out, and why each cannot be read.
    """

    classes: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    ignored: int = 0
    skipped: Mapping[Path, str] = field(default_factory=dict)


class ImageDataset(Dataset[tuple[Tensor, int] | DataError]):
    """Read and transform the examples of a source one by one.

    If an image cannot be read, the item is the error, and `collate` passes it on. An error that is raised in a worker
    process would reach the user wrapped in that process's traceback.
    """

    def __init__(self, examples: Sequence[Example], transform: Callable[[Image], Tensor]) -> None:
        self.examples = examples
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        """Return an image `[3, H, W]` and its label, or the error if it cannot be read."""
        image, label = self.examples[index]
        try:
            return self.transform(load(image)), label
        except DataError as error:
            return error


def load(image: Path | Image) -> Image:
    """Return the image of an example; read it if the example holds a file."""
    return read_image(image) if isinstance(image, Path) else image


def collate(examples: Sequence[tuple[Tensor, int] | DataError]) -> list[Tensor] | DataError:
    """Stack examples into images `[B, 3, H, W]` and labels `[B]`, or return the first error among them."""
    for example in examples:
        if isinstance(example, DataError):
            return example
    return default_collate(list(examples))


def open_source(name: str | Path) -> Source:
    """Open the source of a training run.

    Args:
        name: `"digits"`, scikit-learn's 1797 handwritten digits of 8x8 pixels, of which 1437 are training images; or a
            folder with one subfolder of images per class, either within `train/` and `val/` (or `test/`), or directly.
            In the latter case a fifth of the images, chosen by a hash of their names, are test images.

    Raises:
        DataError: the folder does not exist, has fewer than two classes, or has a class without training or test
            images.

    Example:
        >>> source = open_source("digits")
        >>> len(source.classes), len(source.train), len(source.test)
        (10, 1437, 360)
    """
    if str(name) == DIGITS:
        return _digits()
    root, folders = _open_folder(name)
    if not is_split(folders):
        classes, ignored = _read_classes(root, folders)
        return _split(root, classes, ignored)
    test_side = next(side for side in TEST_SIDES if side in folders)
    train, ignored = _read_classes(*_open_folder(root / "train"))
    test, more = _read_classes(*_open_folder(root / test_side))
    check_classes(tuple(test), tuple(train), repr(str(root / test_side)), "train/")
    return Source(tuple(train), _label(train), _label(test), ignored + more)


def open_test_images(name: str | Path) -> Source:
    """Open a source for evaluation: like `open_source`, but all images of a folder without a split are test images."""
    if str(name) == DIGITS:
        return _digits()
    root, folders = _open_folder(name)
    if is_split(folders):
        return open_source(name)
    classes, ignored = _read_classes(root, folders)
    return Source(tuple(classes), (), _label(classes), ignored)


def check_classes(got: tuple[str, ...], expected: tuple[str, ...], place: str, other: str) -> None:
    """Check that the classes in one place are those of the other.

    Raises:
        DataError: the classes differ; the message names the differences.
    """
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or extra:
        raise DataError(
            f"expected in {place} the {len(expected)} classes of {other}, got {len(got)}: missing {_some(missing)}, "
            f"unknown {_some(extra)}; add, rename or remove subfolders"
        )


def is_split(folders: Sequence[str]) -> bool:
    """Whether subfolders are a split: train, and val or test, and no others. Else they are classes."""
    return set(folders) <= {"train", *TEST_SIDES} and "train" in folders and len(folders) > 1


def _digits() -> Source:
    datasets = require("sklearn.datasets", extra="train")
    selection = require("sklearn.model_selection", extra="train")
    pil = require("PIL.Image", extra="train")
    digits = datasets.load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    examples = [
        (pil.fromarray(image).convert("RGB"), int(label)) for image, label in zip(gray, digits.target, strict=True)
    ]
    train, test = selection.train_test_split(examples, test_size=360, stratify=digits.target, random_state=0)
    return Source(tuple(map(str, range(10))), tuple(train), tuple(test))


def _open_folder(name: str | Path) -> tuple[Path, list[str]]:
    root = Path(name)
    if not root.is_dir():
        found = "which is a file" if root.exists() else "which does not exist"
        raise DataError(
            f"expected 'digits' or a folder with one subfolder of images per class, got {str(name)!r}, {found}; "
            "check the name"
        )
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        found = f"only {folders[0]!r}" if folders else "no subfolder"
        images = len([path for path in root.iterdir() if path.is_file()])
        raise DataError(
            f"expected in {str(root)!r} at least two subfolders of images, one per class, or train/ and val/, got "
            f"{found} and {images} files; move the images into one subfolder per class"
        )
    return root, folders


def _read_classes(root: Path, folders: Sequence[str]) -> tuple[dict[str, list[Path]], int]:
    classes, ignored = {}, 0
    for name in folders:
        classes[name], others = find_images(root / name)
        ignored += others
        if not classes[name]:
            raise DataError(
                f"expected images in every class folder, got none in {str(root / name)!r} "
                f"({others} other files); add images or remove the folder"
            )
    return classes, ignored


def _split(root: Path, classes: dict[str, list[Path]], ignored: int) -> Source:
    train, test = {}, {}
    for name, images in classes.items():
        if len(images) < 2:
            raise DataError(
                f"expected at least 2 images per class, one to train and one to test on, got {len(images)} in "
                f"{str(root / name)!r}; add images"
            )
        ranked = sorted(images, key=lambda path: _position(path, root))
        cut = sum(_position(path, root) < TEST_SHARE for path in ranked)
        cut = min(max(cut, 1), len(ranked) - 1)
        test[name], train[name] = ranked[:cut], ranked[cut:]
    return Source(tuple(classes), _label(train), _label(test), ignored)


def _position(path: Path, root: Path) -> float:
    """Map a file's name to [0, 1), so that adding images does not move the others between training and test."""
    digest = sha256(path.relative_to(root).as_posix().encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _label(classes: dict[str, list[Path]]) -> tuple[Example, ...]:
    return tuple((image, label) for label, images in enumerate(classes.values()) for image in images)


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return shown if names else "none"
