"""Find the images of a folder with one subfolder per class, and split them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from regard.errors import DataError
from regard.training.images import find_images, unreadable
from regard.training.layout import layout_error

Classes = dict[str, list[Path]]
"""The images of each class."""

Sides = dict[str, Classes]
"""The classes of `train`, `val` and `test`; empty for a side without images."""

SIDES = ("train", "val", "test")
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "eval": "val", "dev": "val", "testing": "test"}
VAL_SHARE = 0.2
T = TypeVar("T")
MAX_NAMED = 5  # names in a message


def open_folder(name: str | Path) -> tuple[Path, list[str]]:
    """Return the path of a folder of images and the names of its subfolders, sorted.

    Raises:
        DataError: the folder does not exist, cannot be read, has fewer than two subfolders, or has links to folders
            whose images would count twice.
    """
    root = Path(name)
    try:
        is_folder = root.is_dir()
    except PermissionError as error:
        raise unreadable(error) from error
    if not is_folder:
        found = "which is a file" if root.exists() else "which does not exist"
        raise DataError(
            f"expected 'digits', a folder with one subfolder of images per class, or a dataset of timm such as "
            f"'hfds/NAME', got {str(name)!r}, {found}; check the name"
        )
    folders = _subfolders(root)
    if len(folders) < 2:
        found = f"only {folders[0]!r}" if folders else "no subfolder"
        inside = root / folders[0] if folders else root
        is_nested = folders and len(_subfolders(inside)) > 1
        raise layout_error(
            root,
            f"at least two subfolders of images, one per class, or train/ and val/, got {found} and "
            f"{_count_files(root)} files",
            f"name {str(inside)!r} instead" if is_nested else "move the images into one subfolder per class",
        )
    _check_links(root, folders)
    return root, folders


def is_split(folders: Sequence[str]) -> bool:
    """Whether subfolders are a split: train, and val or test, and no others. Else they are classes.

    Example:
        >>> is_split(["train", "val"]), is_split(["train", "cars"])
        (True, False)
    """
    return set(folders) <= set(SIDES) and "train" in folders and len(folders) > 1


def read_sides(root: Path, folders: Sequence[str], seed: int = 0) -> tuple[Sides, int]:
    """Find the images of each side. Without a `val/`, a hash of the file names selects the validation images.

    Args:
        root: the folder.
        folders: its subfolders.
        seed: chooses another split.

    Returns:
        The sides, and the number of other files.

    Raises:
        DataError: the layout is wrong, a class has too few images, or the sides have different classes.
    """
    _check_layout(root, folders)
    ignored = _count_files(root)
    if not is_split(folders):
        classes, others = _read_classes(root, folders)
        train, val = split_off(classes, name_below(root), str(root), seed)
        return {"train": train, "val": val, "test": {}}, ignored + others
    sides: Sides = {side: {} for side in SIDES}
    for side in (side for side in SIDES if side in folders):
        sides[side], others = _read_classes(*open_folder(root / side))
        ignored += others + _count_files(root / side)
        check_classes(tuple(sides[side]), tuple(sides["train"]), repr(str(root / side)), "train/")
    if not sides["val"]:
        place = root / "train"
        sides["train"], sides["val"] = split_off(sides["train"], name_below(place), str(place), seed)
    return sides, ignored


def find_test_images(root: Path, folders: Sequence[str]) -> tuple[Sides, int]:
    """Find the images for an evaluation: the sides of a split, or all images of a folder without one as `test`."""
    if is_split(folders):
        return read_sides(root, folders)
    _check_layout(root, folders)
    classes, others = _read_classes(root, folders)
    return {"train": {}, "val": {}, "test": classes}, others + _count_files(root)


def restore_sides(root: Path, split: Mapping[str, Sequence[str]]) -> tuple[Sides, int]:
    """Find the images of a stored split.

    Args:
        root: the folder.
        split: names of files relative to the folder, by side.

    Returns:
        The sides, and the number of files that the split does not name.

    Raises:
        DataError: `split` is no split, or files are missing.
    """
    if set(split) != set(SIDES) or not all(map(_are_names, split.values())) or not split["train"]:
        raise DataError(
            f"expected a split with lists of file names under 'train', 'val' and 'test', got {_some(sorted(split))} or "
            "other content; restore it, or train again with a new split"
        )
    level = 1 if all(name.startswith("train/") for name in split["train"]) else 0  # of the class in a name's parts
    names = [name for side in SIDES for name in split[side]]
    found, others = _find_named(root, {"/".join(name.split("/")[: level + 1]) for name in names})
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"expected in {str(root)!r} the {len(names)} images of the stored split, {len(missing)} of which are "
            f"missing: {_some(missing)}; restore them, or train again with a new split"
        )
    sides: Sides = {side: {} for side in SIDES}
    for side in SIDES:
        for name in split[side]:
            sides[side].setdefault(name.split("/")[level], []).append(found[name])
        sides[side] = dict(sorted(sides[side].items()))
        if sides[side]:
            check_classes(tuple(sides[side]), tuple(sides["train"]), f"{side} of the stored split", "its train")
    return sides, others + len(found) - len(names)


def split_off(
    classes: Mapping[str, Sequence[T]], name_of: Callable[[T], str], place: str, seed: int = 0
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
    """Divide the images of each class into training and validation images.

    A hash of the images' names divides them, so that adding images does not move the others.

    Args:
        classes: the images of each class.
        name_of: returns the name of an image.
        place: where the classes are, for the message.
        seed: chooses another division.

    Raises:
        DataError: a class has a single image.

    Example:
        >>> train, val = split_off({"a": range(10)}, str, "here")
        >>> len(train["a"]), len(val["a"])
        (8, 2)
    """
    if single := [name for name, images in classes.items() if len(images) < 2]:
        more = f" and in {len(single) - 1} other classes" if len(single) > 1 else ""
        raise DataError(
            f"expected at least 2 images per class, one for training and one for validation, got 1 in "
            f"{place + '/' + single[0]!r}{more}; add images"
        )
    train, val = {}, {}
    for name, images in classes.items():
        positions = [_position(name_of(image), seed) for image in images]
        ranked = [images[place] for place in sorted(range(len(images)), key=positions.__getitem__)]
        cut = min(max(sum(position < VAL_SHARE for position in positions), 1), len(images) - 1)
        val[name], train[name] = ranked[:cut], ranked[cut:]
    return train, val


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


def _subfolders(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise unreadable(error) from error


def _count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.iterdir())


def _check_links(root: Path, folders: Sequence[str]) -> None:
    """Check that no subfolder is a link to a folder that is read anyway: its images would count twice."""
    inside, seen = root.resolve(), dict[Path, str]()
    for name in folders:
        if not (root / name).is_symlink():
            continue
        target = (root / name).resolve()
        if inside.is_relative_to(target) or target.is_relative_to(inside) or target in seen:
            other = seen.get(target, str(target))
            raise DataError(
                f"expected in {str(root)!r} subfolders with images of their own, got {name!r}, a link to the images of "
                f"{other!r}; remove the link"
            )
        seen[target] = name


def _check_layout(root: Path, folders: Sequence[str]) -> None:
    """Check that the sides of a split are not taken for classes."""
    sides = {name for name in folders if name in SIDES or name in OTHER_NAMES}
    if is_split(folders) or "train" not in sides or len(sides) < 2:
        return
    if others := sorted(set(folders) - sides):
        raise layout_error(
            root,
            f"either classes or the sides of a split, got {_some(sorted(sides))} beside {_some(others)}",
            "move or remove the folders that are not part of the split",
        )
    wrong = sorted(sides - set(SIDES))
    raise layout_error(
        root, f"the sides 'train', 'val' and 'test', got {_some(wrong)}", f"rename it to {OTHER_NAMES[wrong[0]]!r}"
    )


def _read_classes(root: Path, folders: Sequence[str]) -> tuple[Classes, int]:
    classes, ignored, empty = Classes(), 0, dict[str, int]()
    for name in folders:
        classes[name], others = find_images(root / name)
        ignored += others
        if not classes[name]:
            empty[name] = others
    if empty:
        first, others = next(iter(empty.items()))
        more = f" and none in {len(empty) - 1} other folders" if len(empty) > 1 else ""
        raise layout_error(
            root,
            f"images in every class folder, got none in {str(root / first)!r} ({others} other files){more}",
            "add images or remove the folder",
        )
    return classes, ignored


def _are_names(names: object) -> bool:
    return isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)


def _find_named(root: Path, folders: set[str]) -> tuple[dict[str, Path], int]:
    """Find the images below some folders by their names relative to `root`, and count the other files."""
    found, ignored, name_of = dict[str, Path](), 0, name_below(root)
    for folder in sorted(folders):
        is_inside = (root / folder).is_dir() and ".." not in folder.split("/")
        images, others = find_images(root / folder) if is_inside else ([], 0)
        found |= {name_of(image): image for image in images}
        ignored += others
    return found, ignored


def name_below(root: Path) -> Callable[[Path], str]:
    """Return a function from a path below a folder to its name relative to the folder.

    `Path.relative_to` would take minutes for a million images.
    """
    prefix = root.as_posix().rstrip("/") + "/"
    return lambda path: path.as_posix().removeprefix(prefix)


def _position(name: str, seed: int) -> float:
    """Map the name of an image to [0, 1)."""
    digest = sha256((name if seed == 0 else f"{seed}:{name}").encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MAX_NAMED])) + (", ..." if len(names) > MAX_NAMED else "")
    return shown if names else "none"
