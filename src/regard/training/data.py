"""Sources of labeled images: scikit-learn's digits, folders with one subfolder per class, and timm's datasets."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from regard.errors import DataError, OptionError, UnsupportedError
from regard.extras import require
from regard.training.folders import SIDES, Sides, find_test_images, name_below, open_folder, read_sides, restore_sides
from regard.training.folders import check_classes as check_classes
from regard.training.images import read_image
from regard.training.lazy import LazyImages
from regard.training.streams import Stream
from regard.training.timm_data import has_prefix, has_tars, open_named, open_tars

if TYPE_CHECKING:
    from PIL.Image import Image

Example = tuple["Path | Image", int]
"""An image or its file, and the index of its class."""

Item = tuple[Tensor, int, int]
"""An image `[3, H, W]`, its label, and its index in the dataset."""

DIGITS = "digits"
DIGITS_TEST, DIGITS_VAL = 360, 180  # images


@dataclass(frozen=True)
class Source:
    """Labeled images in three sides.

    Attributes:
        classes: the names of the classes; a label is an index into them.
        train: the training images. A `Stream` has no random access.
        val: the validation images, which choose the best weights during training.
        test: the test images, for one final report. May be empty.
        ignored: number of files in the folder that are hidden, not images, or not in the stored split.
        skipped: broken images that were left out, and why each cannot be read.
        root: the folder of the images, or None if they are not files.
    """

    classes: tuple[str, ...]
    train: Sequence[Example] | Stream
    val: Sequence[Example] | Stream
    test: Sequence[Example] | Stream = ()
    ignored: int = 0
    skipped: Mapping[Path, str] = field(default_factory=dict)
    root: Path | None = None

    def files(self) -> list[Path]:
        """Return the files of all sides; none if the images are not files of a folder."""
        return [] if self.root is None else [image for side in self._sides().values() for image in side]

    def split(self) -> dict[str, list[str]]:
        """Return the names of the files of each side, relative to the folder, for `open_source(name, split=...)`.

        The result can be written as JSON. It is empty if the images are not files of a folder: the split of such a
        source never changes.

        Example:
            >>> open_source("digits").split()
            {}
        """
        if self.root is None:
            return {}
        return {side: list(map(name_below(self.root), images)) for side, images in self._sides().items()}

    def _sides(self) -> dict[str, list[Path]]:
        return {side: [image for image, _ in getattr(self, side) if isinstance(image, Path)] for side in SIDES}


class ImageDataset(Dataset[Item | DataError]):
    """Read and transform the examples of a source one by one.

    If an image cannot be read, the item is the error, and `collate` passes it on. An error that is raised in a worker
    process would reach the user wrapped in that process's traceback.

    Args:
        examples: one side of a source.
        transform: turns an image into a tensor `[3, H, W]`.
    """

    def __init__(self, examples: Sequence[Example], transform: Callable[[Image], Tensor]) -> None:
        self.examples = examples
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def __getitem__(self, key: int | tuple[int, int]) -> Item | DataError:
        """Return an image `[3, H, W]`, its label and its index, or the error if it cannot be read.

        Args:
            key: the index; or the index and a seed of 64 bits for the random numbers of the transform.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        try:
            image, label = self.examples[index]
            image = load(image)
        except DataError as error:
            return error
        if seed is not None:
            seed_transforms(seed)
        return self.transform(image), label, index

    def name_of(self, index: int) -> str:
        """Return the name of an image for messages: its file, or as in "image 17 of digits"."""
        image, _ = self.examples[index]
        return str(image) if isinstance(image, Path) else image.info.get("name", f"image {index}")


def load(image: Path | Image) -> Image:
    """Return the image of an example; read it if the example holds a file."""
    return read_image(image) if isinstance(image, Path) else image


def seed_transforms(seed: int) -> None:
    """Seed what transforms draw from: the generators of Python, NumPy and PyTorch's CPU.

    `torch.manual_seed` would seed those of all devices, which takes as long as to shrink an image.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def collate(items: Sequence[Item | DataError]) -> list[Tensor] | DataError:
    """Stack items into images `[B, 3, H, W]`, labels `[B]` and indices `[B]`, or return the first error among them."""
    for item in items:
        if isinstance(item, DataError):
            return item
    return default_collate(list(items))


def open_source(
    name: str | Path,
    *,
    split: Mapping[str, Sequence[str]] | None = None,
    split_seed: int = 0,
    train_split: str = "train",
    val_split: str = "validation",
    root: str | Path | None = None,
    num_classes: int | None = None,
) -> Source:
    """Open the source of a training run.

    Args:
        name: one of

            - `"digits"`: scikit-learn's 1797 handwritten digits of 8x8 pixels: 1257 for training, 180 for validation
              and 360 for testing
            - a folder with one subfolder of images per class. A fifth of the images, chosen by a hash of their names,
              are for validation
            - a folder with `train/` and `val/`, `train/` and `test/`, or all three, each with one subfolder per class.
              Without `val/`, a fifth of `train/` is for validation
            - tar files of images: `"FILE.tar"`, or a folder with `train.tar` and `val.tar`
            - a dataset of timm: `"hfds/NAME"`, `"hfids/NAME"`, `"tfds/NAME"`, `"torch/NAME"` or `"wds/FOLDER"`; see
              `regard.training.timm_data`
        split: the split of an earlier `Source.split()`, to rebuild the sides of a folder exactly.
        split_seed: chooses other images for validation where a folder or a tar file does not.
        train_split: name of the training split of timm's dataset.
        val_split: name of the validation split of timm's dataset.
        root: folder of timm's dataset: its files for `torch/` and `tfds/`, its download cache for `hfds/`.
        num_classes: number of classes of timm's dataset if it has no names for them.

    Raises:
        DataError: the folder does not exist, cannot be read, has fewer than two classes, has a class without training
            or validation images, or lacks files of `split`; or timm cannot open the dataset.
        MissingDependencyError: a package that reads the dataset is not installed.
        OptionError: `num_classes` is given for another source.

    Example:
        >>> source = open_source("digits")
        >>> len(source.classes), len(source.train), len(source.val), len(source.test)
        (10, 1257, 180, 360)
    """
    if has_prefix(name):
        return Source(*open_named(str(name), train_split, val_split, root, num_classes))
    if num_classes is not None:
        raise OptionError(
            f"num_classes is for datasets of timm that do not name their classes, not for {str(name)!r}; leave it out"
        )
    if str(name) == DIGITS:
        return _digits()
    if has_tars(name):
        return Source(*open_tars(name, split_seed))
    folder, folders = open_folder(name)
    if split is not None:
        return _labeled(folder, *restore_sides(folder, split))
    return _labeled(folder, *read_sides(folder, folders, split_seed))


def open_test_images(name: str | Path) -> Source:
    """Open a source for evaluation: like `open_source`, but all images of a folder without a split are test images."""
    if str(name) == DIGITS or has_prefix(name) or has_tars(name):
        return open_source(name)
    root, folders = open_folder(name)
    return _labeled(root, *find_test_images(root, folders))


def labels_of(side: Sequence[Example] | Stream) -> list[int]:
    """Return the labels of one side of a source without reading its images.

    Raises:
        UnsupportedError: the side is a stream.

    Example:
        >>> len(labels_of(open_source("digits").val))
        180
    """
    if isinstance(side, Stream):
        raise UnsupportedError(
            f"expected images in any order to count their labels, got the stream {side.name!r}; use equal class weights"
        )
    return side.labels() if isinstance(side, LazyImages) else [label for _, label in side]


def is_path(name: str | Path) -> bool:
    """Whether the name of a source is a path: not the digits, and not a dataset in one of timm's collections.

    Example:
        >>> is_path("photos"), is_path("digits"), is_path("hfds/cifar10")
        (True, False, False)
    """
    return str(name) != DIGITS and not has_prefix(name)


def _digits() -> Source:
    datasets = require("sklearn.datasets", extra="train")
    selection = require("sklearn.model_selection", extra="train")
    pil = require("PIL.Image", extra="train")
    digits = datasets.load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    examples = []
    for index, (pixels, label) in enumerate(zip(gray, digits.target, strict=True)):
        image = pil.fromarray(pixels).convert("RGB")
        image.info["name"] = f"image {index} of digits"
        examples.append((image, int(label)))
    rest, test = selection.train_test_split(examples, test_size=DIGITS_TEST, stratify=digits.target, random_state=0)
    labels = [label for _, label in rest]
    train, val = selection.train_test_split(rest, test_size=DIGITS_VAL, stratify=labels, random_state=0)
    return Source(tuple(map(str, range(10))), tuple(train), tuple(val), tuple(test))


def _labeled(root: Path, sides: Sides, ignored: int) -> Source:
    classes = tuple(sides["train"] or sides["test"])
    labels = {name: label for label, name in enumerate(classes)}
    train, val, test = (
        tuple((image, labels[name]) for name, images in sides[side].items() for image in images) for side in SIDES
    )
    return Source(classes, train, val, test, ignored, root=root)
