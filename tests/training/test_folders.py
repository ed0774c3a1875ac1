"""Wrong folders end in one error before the long work."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pictures import write_folder
from regard.errors import DataError
from regard.training import open_source
from regard.training.layout import EXPECTED, draw_tree

from .permissions import bound_by_permissions


def fails(folder, *reasons, opened=None):
    with pytest.raises(DataError) as raised:
        open_source(folder if opened is None else opened)
    message = str(raised.value)
    assert all(reason in message for reason in (*reasons, str(folder))), message
    return message


def shows_trees(message, *lines):
    expected, found = message.split("\n\nfound\n")
    assert expected.endswith(EXPECTED) and all(line in found.splitlines() for line in lines), message


def test_missing(tmp_path):
    fails(tmp_path / "none", "which does not exist", "check the name")


def test_file(tmp_path):
    (tmp_path / "a").touch()
    fails(tmp_path / "a", "which is a file")


def test_empty(tmp_path):
    message = fails(tmp_path, "got no subfolder and 0 files")
    shows_trees(message, f"{tmp_path.name}/")


def test_images_without_classes(folder):
    message = fails(folder / "red", "got no subfolder and 6 files", "one subfolder per class")
    shows_trees(message, "red/", "├── 0.png", "└── ... 2 more")


def test_one_class(tmp_path):
    message = fails(write_folder(tmp_path / "data", classes=("red",)), "got only 'red'", "one subfolder per class")
    shows_trees(message, "data/", "└── red/", "    ├── 0.png", "    └── ... 2 more")


def test_folder_around_the_folder(tmp_path):
    inner = write_folder(tmp_path / "photos" / "images")
    message = fails(tmp_path / "photos", "got only 'images' and 0 files", f"name {str(inner)!r} instead")
    shows_trees(message, "photos/", "└── images/", "    ├── blue/")


def test_train_alone(tmp_path):
    write_folder(tmp_path / "train")
    fails(tmp_path, "got only 'train'", "train/ and val/", f"name {str(tmp_path / 'train')!r} instead")


def test_other_names_of_sides(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "validation")
    message = fails(tmp_path, "the sides 'train', 'val' and 'test', got 'validation'; rename it to 'val'")
    shows_trees(message, "├── train/", "└── validation/")


@pytest.mark.parametrize("side", ["val", "test", "valid"])
def test_sides_beside_other_folders(tmp_path, side):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / side)
    (tmp_path / "annotations").mkdir()
    fails(tmp_path, "beside 'annotations'", repr(side), "not part of the split")


def test_class_without_images(folder):
    for image in (folder / "red").iterdir():
        image.rename(image.with_suffix(".txt"))
    message = fails(folder, "got none in", "red", "6 other files", "add images or remove the folder")
    shows_trees(message, "└── red/", "    ├── 0.txt")


def test_several_classes_without_images(folder):
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
    fails(folder, f"got none in {str(folder / 'a')!r} (0 other files) and none in 2 other folders")


def test_single_image_in_a_class(folder):
    for image in sorted((folder / "red").iterdir())[1:]:
        image.unlink()
    fails(folder, "at least 2 images per class", "got 1", "red")


def test_single_image_in_every_class(tmp_path):
    fails(write_folder(tmp_path, count=1), f"got 1 in {str(tmp_path / 'blue')!r} and in 2 other classes; add images")


def test_single_training_image_per_class(tmp_path):
    write_folder(tmp_path / "train", count=1)
    write_folder(tmp_path / "test", count=2)
    fails(tmp_path, f"got 1 in {str(tmp_path / 'train' / 'blue')!r}")
    (tmp_path / "test").rename(tmp_path / "val")
    assert len(open_source(tmp_path).train) == 3  # nothing to split


def test_empty_side(tmp_path):
    write_folder(tmp_path / "train")
    (tmp_path / "val").mkdir()
    fails(tmp_path, "got no subfolder", "val")


def test_side_with_an_empty_class(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val")
    for image in (tmp_path / "val" / "red").iterdir():
        image.unlink()
    fails(tmp_path, "got none in", "val/red")


@pytest.mark.parametrize("side", ["val", "test"])
def test_sides_with_other_classes(tmp_path, side):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / side, classes=("blue", "green"))
    (tmp_path / side / "green").rename(tmp_path / side / "gren")
    fails(tmp_path, "the 3 classes of train/, got 2: missing 'green', 'red', unknown 'gren'")


def test_many_classes(tmp_path):
    for index in range(3000):
        for side in ("train", "val"):
            (tmp_path / side / f"{side[index % 100 == 0 :]}{index:04}").mkdir(parents=True)
    message = fails(tmp_path, "got none in", "2999 other folders")
    assert len(message) < 2000
    for place in tmp_path.glob("*/*"):
        (place / "1.png").touch()
    message = fails(tmp_path, "the 3000 classes of train/, got 3000: missing", ", ..., unknown")
    assert len(message) < 600
    for place in (tmp_path / "train").iterdir():
        (place / "2.png").touch()
    source = open_source(tmp_path / "train")
    assert len(source.classes) == len(source.train) == len(source.val) == 3000
    assert open_source(tmp_path / "train", split=source.split()) == source


def test_folder_named_like_an_image(folder):
    (folder / "red" / "a.jpg").mkdir()
    (folder / "red" / "b.jpg").mkdir()
    shutil.copy(folder / "red" / "0.png", folder / "red" / "b.jpg" / "1.png")
    source = open_source(folder)
    images = source.files()
    assert len(images) == 19 and folder / "red" / "b.jpg" / "1.png" in images and source.ignored == 0


def test_link_loops_within_a_class(folder):
    (folder / "red" / "self").symlink_to(folder / "red")
    (folder / "red" / "up").symlink_to(folder)
    (folder / "red" / "itself").symlink_to("itself")
    source = open_source(folder)
    assert len(source.files()) == 18 and source.ignored == 3


@pytest.mark.parametrize("target", [".", "..", "red", "red/deep"])
def test_class_that_links_to_the_images_of_others(folder, target):
    (folder / "red" / "deep").mkdir()
    (folder / "again").symlink_to(target)
    fails(folder, "images of their own, got 'again', a link to the images of", "remove the link")


def test_two_links_to_one_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("a", "b"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    fails(folder, "got 'b', a link to the images of 'a'")


def test_side_that_links_to_another(tmp_path):
    write_folder(tmp_path / "train")
    (tmp_path / "val").symlink_to("train")
    fails(tmp_path, "got 'val', a link to the images of")


def test_classes_may_be_links(folder, tmp_path):
    (tmp_path / "data").joinpath("red").rename(tmp_path / "elsewhere")
    (folder / "red").symlink_to(tmp_path / "elsewhere")
    source = open_source(folder)
    assert len(source.files()) == 18
    assert open_source(folder, split=source.split()) == source


@pytest.fixture
def public():
    """A folder that other users may read; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield write_folder(Path(place) / "data")
        for folder in (Path(place) / "data", *Path(place, "data").glob("*/")):
            folder.chmod(0o755)


@pytest.fixture(params=["", "red", "red/deep"])
def closed(public, request):
    (public / "red" / "deep").mkdir()
    (public / request.param).chmod(0)
    return public / request.param


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
def test_folder_without_permission(public, closed):
    with bound_by_permissions(public.parent):
        fails(closed, f"folder that can be read, got {str(closed)!r} (Permission denied); change its", opened=public)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
def test_folder_in_a_folder_without_permission(public):
    public.parent.chmod(0)
    try:
        with bound_by_permissions(public.parent):
            fails(public, "folder that can be read", "(Permission denied)")
    finally:
        public.parent.chmod(0o755)


def test_tree_of_odd_names(tmp_path):
    root = tmp_path / "[bold]data"
    for name in ("[red]a", ":smile:", "x" * 150):
        (root / name).mkdir(parents=True)
    lines = draw_tree(root).splitlines()
    assert lines[:3] == ["[bold]data/", "├── :smile:/", "├── [red]a/"] and len(lines) >= 4


def test_tree_is_short(tmp_path):
    for outer in range(30):
        for inner in range(30):
            (tmp_path / str(outer) / str(inner) / "a" / "b").mkdir(parents=True)
    lines = draw_tree(tmp_path).splitlines()
    assert len(lines) <= 1 + 4 * (1 + 4 + 1) + 1 and lines[-1] == "└── ... 26 more"
