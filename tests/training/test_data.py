import shutil

import numpy as np
import pytest

from pictures import write_folder
from regard.errors import DataError
from regard.training import open_source
from regard.training.data import open_test_images


def names(examples):
    return {image.relative_to(image.parents[1]).as_posix() for image, _ in examples}


def test_digits():
    source = open_source("digits")
    counts = np.bincount([label for _, label in source.test])
    assert len(source.train) == 1437 and len(source.test) == 360 and source.classes == tuple("0123456789")
    assert counts.min() >= 34 and counts.max() <= 37  # as in the whole: 174 to 183 of 1797
    pixels = np.array([np.array(image) for image, _ in source.train])
    assert pixels.shape == (1437, 8, 8, 3) and (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_digits_are_split_the_same_way_again():
    first, again = open_source("digits"), open_source("digits")
    assert [label for _, label in first.test] == [label for _, label in again.test]
    assert all(one.tobytes() == other.tobytes() for (one, _), (other, _) in zip(first.test, again.test, strict=True))


def test_folder_is_split_by_names(tmp_path):
    source = open_source(write_folder(tmp_path / "a", count=50))
    assert source.classes == ("blue", "green", "red")
    assert not names(source.train) & names(source.test) and len(source.train) + len(source.test) == 150
    assert {label for _, label in source.train} == {label for _, label in source.test} == {0, 1, 2}
    assert all(image.parent.name == source.classes[label] for image, label in source.train + source.test)
    (tmp_path / "a").rename(tmp_path / "b")
    assert names(open_source(tmp_path / "b").test) == names(source.test)


def test_about_a_fifth_is_for_testing(tmp_path):
    for index in range(1000):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{index}.png").touch()
    deviation = (2000 * 0.2 * 0.8) ** 0.5
    assert abs(len(open_source(tmp_path).test) - 400) <= 4 * deviation


def test_new_images_do_not_move_old_ones(tmp_path):
    folder = write_folder(tmp_path / "data", count=50)
    before = open_source(folder)
    for image in sorted(folder.rglob("*.png")):
        shutil.copy(image, image.with_name(f"copy of {image.name}"))
    after = open_source(folder)
    assert names(before.test) <= names(after.test) and names(before.train) <= names(after.train)


@pytest.mark.parametrize("count", [2, 3])
def test_each_side_has_an_image_of_each_class(tmp_path, count):
    source = open_source(write_folder(tmp_path / "data", count=count))
    assert {label for _, label in source.train} == {label for _, label in source.test} == {0, 1, 2}


@pytest.mark.parametrize("side", ["val", "test"])
def test_folder_with_split(tmp_path, side):
    write_folder(tmp_path / "train", count=3)
    write_folder(tmp_path / side, count=2)
    source = open_source(tmp_path)
    assert len(source.train) == 9 and len(source.test) == 6
    assert {image.parents[1].name for image, _ in source.test} == {side}


def test_val_goes_before_test(tmp_path):
    for side in ("train", "val", "test"):
        write_folder(tmp_path / side, count=2)
    assert {image.parents[1].name for image, _ in open_source(tmp_path).test} == {"val"}


def test_a_class_may_be_called_train(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "red").rename(folder / "train")
    assert open_source(folder).classes == ("blue", "green", "train")


def test_other_files_are_counted(folder):
    (folder / "red" / "notes.txt").touch()
    (folder / "red" / ".DS_Store").touch()
    (folder / "blue" / ".hidden.png").touch()
    source = open_source(folder)
    assert source.ignored == 3 and len(source.train) + len(source.test) == 18


def test_all_images_of_an_unsplit_folder_are_test_images(folder):
    source = open_test_images(folder)
    assert len(source.test) == 18 and source.train == ()


def fails(folder, *reasons):
    with pytest.raises(DataError) as raised:
        open_source(folder)
    assert all(reason in str(raised.value) for reason in (*reasons, str(folder)))


def test_missing(tmp_path):
    fails(tmp_path / "none", "which does not exist", "check the name")


def test_file(tmp_path):
    (tmp_path / "a").touch()
    fails(tmp_path / "a", "which is a file")


def test_empty(tmp_path):
    fails(tmp_path, "got no subfolder and 0 files")


def test_images_without_classes(folder):
    fails(folder / "red", "got no subfolder and 6 files", "one subfolder per class")


def test_one_class(tmp_path):
    fails(write_folder(tmp_path / "data", classes=("red",)), "got only 'red'")


def test_train_alone(tmp_path):
    write_folder(tmp_path / "train")
    fails(tmp_path, "got only 'train'", "train/ and val/")


def test_class_without_images(folder):
    for image in (folder / "red").iterdir():
        image.rename(image.with_suffix(".txt"))
    fails(folder, "got none in", "red", "6 other files")


def test_single_image_in_a_class(folder):
    for image in sorted((folder / "red").iterdir())[1:]:
        image.unlink()
    fails(folder, "at least 2 images per class", "got 1", "red")


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


def test_sides_with_other_classes(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", classes=("blue", "green"))
    (tmp_path / "val" / "green").rename(tmp_path / "val" / "gren")
    fails(tmp_path, "missing 'green', 'red', unknown 'gren'")
