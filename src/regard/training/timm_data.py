r"""Open the datasets that timm's readers know.

| name | images | read |
|---|---|---|
| `hfds/NAME` | a dataset of the Hugging Face Hub, or a local folder that the package `datasets` knows | in any order |
| `torch/NAME` | a dataset of torchvision in the folder `root`, such as `torch/cifar10` | in any order |
| `FILE.tar` | a tar file with one folder of images per class, within `train/` and `val/` or directly | in any order |
| a folder | `train.tar` and `val.tar`, or `train/` and `val/` with one tar file per class | in any order |
| `wds/FOLDER` | shards of a web dataset, with `_info.json` or splits like `train-{000..099}.tar\|10000` | as a stream |
| `hfids/NAME` | a dataset of the Hugging Face Hub that is not stored | as a stream |
| `tfds/NAME` | a TensorFlow dataset in the folder `root` | as a stream |

The images are not read before training starts, and one that cannot be read ends the run. Of tar files, the headers are
read; for more than 10 GB, timm keeps them in a file beside them. Splits may be slices where the package allows it, as
in `train_split="train[:90%]"` for `hfds/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from regard.errors import DataError
from regard.extras import require
from regard.training.folders import SIDES, check_classes, is_split, split_off
from regard.training.lazy import HubReader, LazyImages, Reader, TarReader, TorchReader
from regard.training.streams import Stream

PACKAGES = {  # the module, and regard's extra that installs it
    "hfds": ("datasets", "data"),
    "hfids": ("datasets", "data"),
    "tfds": ("tensorflow_datasets", "tfds"),
    "torch": ("torchvision", "train"),
    "wds": ("webdataset", "data"),
}


def has_prefix(name: str | Path) -> bool:
    """Whether a name is that of a dataset in one of the collections that timm reads.

    Example:
        >>> has_prefix("hfds/cifar10"), has_prefix("photos/hfds")
        (True, False)
    """
    prefix, _, rest = str(name).partition("/")
    return prefix in PACKAGES and rest != ""


def has_tars(name: str | Path) -> bool:
    """Whether a path is a tar file, or a folder with `train.tar` or with tar files in `train/`."""
    path = Path(name)
    try:
        if path.is_file():
            return path.suffix == ".tar"
        return (path / "train.tar").is_file() or any((path / "train").glob("*.tar"))
    except PermissionError:  # the error of a folder of images says so
        return False


def open_named(
    name: str, train_split: str, val_split: str, root: str | Path | None, num_classes: int | None
) -> tuple[tuple[str, ...], LazyImages | Stream, LazyImages | Stream]:
    """Open a dataset of a collection; see `regard.training.open_source`.

    Returns:
        The names of the classes, the training images and the validation images.

    Raises:
        DataError: timm cannot open the dataset, or its splits have different classes or no known number of classes.
        MissingDependencyError: the package of the collection is not installed.
    """
    prefix, _, rest = name.partition("/")
    require(*PACKAGES[prefix])
    if prefix == "torch" and root is None:
        raise DataError(f"expected the folder of {name!r}, got none; name it with root=FOLDER")
    folder = rest if prefix == "wds" else root
    train = _create(name, folder, train_split, is_training=True)
    val = _create(name, folder, val_split, is_training=False)
    classes = _class_names(train)
    if not classes and num_classes is None:
        raise DataError(f"expected {name!r} to name its classes, got no names; set num_classes")
    if _class_names(val) != classes:
        check_classes(_class_names(val), classes, f"the split {val_split!r}", f"the split {train_split!r}")
    classes = classes or tuple(map(str, range(num_classes or 0)))
    images = len(classes)
    return classes, _side(train, f"{name} {train_split}", images), _side(val, f"{name} {val_split}", images)


def open_tars(name: str | Path, seed: int = 0) -> tuple[tuple[str, ...], LazyImages, LazyImages, LazyImages]:
    """Open tar files of images, listed by timm's reader; see `regard.training.open_source`.

    Args:
        name: the tar file or the folder.
        seed: chooses other validation images if the tar files have no validation side.

    Returns:
        The names of the classes, and the training, validation and test images.

    Raises:
        DataError: a tar file cannot be read, a class has too few images, or the sides have different classes.
    """
    path = Path(name)
    sides = _sides_of_file(path) if path.is_file() else _sides_of_folder(path)
    reader, indices = sides["train"]
    images = _by_class(reader, indices)
    for side, each in sides.items():
        check_classes(tuple(_by_class(*each)), tuple(images), f"{side} of {str(path)!r}", "train")
    if "val" not in sides:
        for side, part in zip(("train", "val"), split_off(images, reader.member, str(path), seed), strict=True):
            sides[side] = (reader, [index for each in part.values() for index in each])
    train, val, test = (LazyImages(*sides.get(side, (reader, ())), len(images)) for side in SIDES)
    return reader.classes, train, val, test


def _create(name: str, root: str | Path | None, split: str, *, is_training: bool) -> Dataset[Any]:
    create_dataset = require("timm.data", extra="train").create_dataset
    try:
        return create_dataset(name, None if root is None else str(root), split=split, is_training=is_training)
    except Exception as error:  # of timm, torchvision, datasets, webdataset or tensorflow_datasets
        raise DataError(
            f"expected a dataset that timm can open, got {name!r} with the split {split!r}: {error}; check the name, "
            "the split and the folder"
        ) from error


def _class_names(dataset: Dataset[Any]) -> tuple[str, ...]:
    """Return the names of the classes as far as timm's reader or torchvision's dataset knows them."""
    if classes := getattr(dataset, "classes", None):  # ImageNet's are tuples of synonyms
        return tuple(name if isinstance(name, str) else ", ".join(name) for name in classes)
    indices = getattr(getattr(dataset, "reader", None), "class_to_idx", {})
    return tuple(sorted(indices, key=indices.__getitem__))


def _side(dataset: Dataset[Any], name: str, num_classes: int) -> LazyImages | Stream:
    if isinstance(dataset, require("timm.data", extra="train").IterableImageDataset):
        return Stream(dataset, name, num_classes)
    of_hub = getattr(dataset, "reader", None)
    reader: Reader = TorchReader(dataset, name) if of_hub is None else HubReader(of_hub, name)
    return LazyImages(reader, range(len(reader)), num_classes)


def _sides_of_file(path: Path) -> dict[str, tuple[TarReader, Sequence[int]]]:
    reader = TarReader(path)
    tops = [reader.member(index).partition("/")[0] for index in range(len(reader))]
    if not is_split(sorted(set(tops))):
        return {"train": (reader, range(len(reader)))}
    return {side: (reader, [index for index, top in enumerate(tops) if top == side]) for side in SIDES if side in tops}


def _sides_of_folder(path: Path) -> dict[str, tuple[TarReader, Sequence[int]]]:
    places = {side: path / side if (path / side).is_dir() else path / f"{side}.tar" for side in SIDES}
    readers = {side: TarReader(place) for side, place in places.items() if place.exists()}
    return {side: (reader, range(len(reader))) for side, reader in readers.items()}


def _by_class(reader: TarReader, indices: Sequence[int]) -> dict[str, list[int]]:
    classes: dict[str, list[int]] = {}
    for index in indices:
        classes.setdefault(reader.classes[reader.targets[index]], []).append(index)
    return classes
