"""Images that are read from tar files or datasets of other packages when they are used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from copy import copy
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, overload

from torch.utils.data import Dataset

from regard.errors import BrokenImageError, DataError
from regard.extras import require
from regard.training.images import decode_image, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image


class Reader(Protocol):
    """Reads the images of a dataset in any order."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> tuple[Image, Any]:
        """Read an image of mode RGB and its label."""

    def labels(self) -> Sequence[Any]:
        """Return the labels of all images without reading images."""

    def name_of(self, index: int) -> str:
        """Return the name of an image for messages."""


class LazyImages(Sequence[tuple["Image", int]]):
    """Images that are read when they are used. A slice of them reads none.

    Args:
        reader: reads the images of the dataset.
        indices: the images to read.
        num_classes: number of classes.
    """

    def __init__(self, reader: Reader, indices: Sequence[int], num_classes: int) -> None:
        self.reader, self.indices, self.num_classes = reader, indices, num_classes

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> tuple[Image, int]: ...

    @overload
    def __getitem__(self, place: slice) -> LazyImages: ...

    def __getitem__(self, place: int | slice) -> tuple[Image, int] | LazyImages:
        """Read an image of mode RGB and its label, or return a part of the images.

        Raises:
            BrokenImageError: the image cannot be read.
            DataError: the label is not that of a class.
        """
        if isinstance(place, slice):
            part = copy(self)
            part.indices = self.indices[place]
            return part
        index = self.indices[place]
        name = self.reader.name_of(index)
        try:
            image, label = self.reader.read(index)
        except Exception as error:  # the readers' exceptions have no common base class
            raise BrokenImageError({Path(name): f"cannot be read ({error})"}) from error
        image.info["name"] = name
        return image, checked_label(label, self.num_classes, name)

    def labels(self) -> list[int]:
        """Return the labels without reading images."""
        labels = self.reader.labels()
        return [int(labels[index]) for index in self.indices]


class TarReader:
    """Reads the images of a tar file, or of a folder with one tar file per class, which timm's reader lists.

    Images are read by their position in the file. A tar file that was opened before worker processes start would share
    its position with them.

    Args:
        path: the tar file or the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        timm = require("timm.data.readers.reader_image_in_tar", extra="train")
        try:
            self.samples, self.targets, class_to_idx, _ = timm.extract_tarinfos(str(path))
        except Exception as error:  # tarfile's, the file system's, and timm's assertions
            raise DataError(
                f"expected a tar file with one folder of images per class, or a folder with one tar file per class, "
                f"got {str(path)!r}, which timm cannot list ({error}); check its content"
            ) from error
        self.classes: tuple[str, ...] = tuple(class_to_idx)
        order = sorted(range(len(self.samples)), key=self.name_of)  # timm's order depends on the file system
        self.samples, self.targets = self.samples[order], self.targets[order]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def read(self, index: int) -> tuple[Image, Any]:
        """Read an image of mode RGB and its label."""
        member, tar, inner_tar = self.samples[index]
        with (self.path / tar if tar else self.path).open("rb") as file:
            file.seek(member.offset_data + (inner_tar.offset_data if inner_tar else 0))
            return decode_image(io.BytesIO(file.read(member.size))), self.targets[index]

    def labels(self) -> Sequence[Any]:
        """Return the labels of all images."""
        return self.targets

    def member(self, index: int) -> str:
        """Return the path of an image in its tar file."""
        return PurePosixPath(self.samples[index][0].path).as_posix()

    def name_of(self, index: int) -> str:
        """Return the tar file and the path in it."""
        _, tar, inner_tar = self.samples[index]
        return "/".join(filter(None, (str(self.path), tar, inner_tar and inner_tar.name, self.member(index))))


class HubReader:
    """Reads the images of a dataset of the Hugging Face Hub by timm's reader.

    Args:
        reader: timm's `ReaderHfds`.
        name: name of the dataset and its split.
    """

    def __init__(self, reader: object, name: str) -> None:
        self.reader: Any = reader
        self.name = name

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.reader)

    def read(self, index: int) -> tuple[Image, Any]:
        """Read an image of mode RGB and its label."""
        file, label = self.reader[index]
        with file:
            return decode_image(file), label

    def labels(self) -> Sequence[Any]:
        """Return the labels of all images."""
        return list(self.reader.dataset[self.reader.label_key])

    def name_of(self, index: int) -> str:
        """Return the index and the name of the split."""
        return f"image {index} of {self.name}"


class TorchReader:
    """Reads the images of a dataset of torchvision.

    Args:
        dataset: torchvision's dataset, which has PIL images and labels.
        name: name of the dataset and its split.
    """

    def __init__(self, dataset: Dataset[Any], name: str) -> None:
        self.dataset: Any = dataset
        self.name = name

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def read(self, index: int) -> tuple[Image, Any]:
        """Read an image of mode RGB and its label."""
        image, label = self.dataset[index]
        return to_rgb(image), label

    def labels(self) -> Sequence[Any]:
        """Return the labels of all images.

        Raises:
            DataError: the dataset has no list of them.
        """
        if not hasattr(self.dataset, "targets"):
            raise DataError(f"expected {self.name!r} to have a list of labels, got none; use equal class weights")
        return self.dataset.targets

    def name_of(self, index: int) -> str:
        """Return the index and the name of the split."""
        return f"image {index} of {self.name}"


def checked_label(label: object, num_classes: int, name: str) -> int:
    """Return the label of an image as an index of a class.

    Raises:
        DataError: it is not one, as in test splits without labels.
    """
    if isinstance(label, Integral) and 0 <= int(label) < num_classes:
        return int(label)
    raise DataError(
        f"expected a label from 0 to {num_classes - 1}, got {label!r} for {name}; choose a split and a number of "
        "classes that agree with the labels"
    )
