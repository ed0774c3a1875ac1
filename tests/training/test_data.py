"""The sides of each source, the dataset of a side, and its random numbers."""

import json
import pickle
import random
import shutil
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import write_folder
from regard.errors import BrokenImageError, DataError
from regard.training import open_source
from regard.training.data import ImageDataset, collate, is_path, labels_of, open_test_images


def names(examples):
    return {image.relative_to(image.parents[1]).as_posix() for image, _ in examples}


def test_digits():
    source = open_source("digits")
    sizes = len(source.train), len(source.val), len(source.test)
    assert sizes == (1257, 180, 360) and source.classes == tuple("0123456789")
    for side, size in zip((source.train, source.val, source.test), sizes, strict=True):
        share = np.bincount(labels_of(side)) / size
        assert share.min() >= 0.9 * 174 / 1797 and share.max() <= 1.1 * 183 / 1797  # as in the whole: 174 to 183
    pixels = np.array([np.array(image) for image, _ in source.train])
    assert pixels.shape == (1257, 8, 8, 3) and (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_digits_have_each_image_once():
    source = open_source("digits")
    used = {image.info["name"] for image, _ in (*source.train, *source.val, *source.test)}
    assert used == {f"image {index} of digits" for index in range(1797)}


def test_test_images_of_digits_never_change():
    content = b"".join(image.tobytes() + bytes([label]) for image, label in open_source("digits").test)
    assert sha256(content).hexdigest() == "3047ceab0a1066037a6ad1dfc12a121ea29258b5a55db70cfeeff7fb94e15f30"


def test_digits_are_split_the_same_way_again():
    first, again = open_source("digits"), open_source("digits", split_seed=1)
    assert labels_of(first.val) == labels_of(again.val)
    assert all(one.tobytes() == other.tobytes() for (one, _), (other, _) in zip(first.val, again.val, strict=True))


def test_folder_is_split_by_names(tmp_path):
    source = open_source(write_folder(tmp_path / "a", count=50))
    assert source.classes == ("blue", "green", "red") and source.test == ()
    assert not names(source.train) & names(source.val) and len(source.train) + len(source.val) == 150
    assert {label for _, label in source.train} == {label for _, label in source.val} == {0, 1, 2}
    assert all(image.parent.name == source.classes[label] for image, label in source.train + source.val)
    (tmp_path / "a").rename(tmp_path / "b")
    assert names(open_source(tmp_path / "b").val) == names(source.val)


def test_seed_chooses_another_split(tmp_path):
    folder = write_folder(tmp_path, count=50)
    splits = [names(open_source(folder, split_seed=seed).val) for seed in (0, 1, 2, 1)]
    assert splits[1] == splits[3] and len({frozenset(split) for split in splits}) == 3
    shared = len(splits[0] & splits[1])
    assert shared <= 15  # a fifth of a fifth of 150 is 6: the splits are independent


def test_about_a_fifth_is_for_validation(tmp_path):
    for index in range(1000):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{index}.png").touch()
    deviation = (2000 * 0.2 * 0.8) ** 0.5
    for seed in (0, 1):
        assert abs(len(open_source(tmp_path, split_seed=seed).val) - 400) <= 4 * deviation


def test_new_images_do_not_move_old_ones(tmp_path):
    folder = write_folder(tmp_path / "data", count=50)
    before = open_source(folder)
    for image in sorted(folder.rglob("*.png")):
        shutil.copy(image, image.with_name(f"copy of {image.name}"))
    after = open_source(folder)
    assert names(before.val) <= names(after.val) and names(before.train) <= names(after.train)


@pytest.mark.parametrize("count", [2, 3])
def test_each_side_has_an_image_of_each_class(tmp_path, count):
    source = open_source(write_folder(tmp_path / "data", count=count))
    assert {label for _, label in source.train} == {label for _, label in source.val} == {0, 1, 2}


SIDES = ("train", "val", "test")


def sides(source):
    return {side: [image.relative_to(source.root).parts[0] for image, _ in getattr(source, side)] for side in SIDES}


def test_folder_with_train_and_val(tmp_path):
    write_folder(tmp_path / "train", count=3)
    write_folder(tmp_path / "val", count=2)
    assert sides(open_source(tmp_path)) == {"train": ["train"] * 9, "val": ["val"] * 6, "test": []}


def test_folder_with_three_sides(tmp_path):
    for count, side in enumerate(SIDES, start=1):
        write_folder(tmp_path / side, count=count)
    assert sides(open_source(tmp_path)) == {"train": ["train"] * 3, "val": ["val"] * 6, "test": ["test"] * 9}


def test_folder_with_train_and_test(tmp_path):
    write_folder(tmp_path / "train", count=10)
    write_folder(tmp_path / "test", count=2)
    source = open_source(tmp_path)
    found = sides(source)
    assert found["test"] == ["test"] * 6 and set(found["train"] + found["val"]) == {"train"}
    assert len(source.train) + len(source.val) == 30 and not names(source.train) & names(source.val)
    assert names(open_source(tmp_path / "train").val) == names(source.val)
    assert names(open_source(tmp_path, split_seed=1).val) != names(source.val)


def test_a_class_may_be_called_train(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "red").rename(folder / "train")
    assert open_source(folder).classes == ("blue", "green", "train")


def test_other_files_are_counted(folder):
    (folder / "labels.csv").touch()
    (folder / "red" / "notes.txt").touch()
    (folder / "red" / ".DS_Store").touch()
    (folder / "blue" / ".hidden.png").touch()
    source = open_source(folder)
    assert source.ignored == 4 and len(source.train) + len(source.val) == 18


def test_all_images_of_an_unsplit_folder_are_test_images(folder):
    source = open_test_images(folder)
    assert len(source.test) == 18 and source.train == source.val == () and source.ignored == 0


def test_test_images_of_a_split(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val")
    assert open_test_images(tmp_path) == open_source(tmp_path)


@pytest.mark.parametrize("layout", ["plain", "train and val", "train and test"])
def test_stored_split(tmp_path, layout):
    for side in [""] if layout == "plain" else layout.split(" and "):
        write_folder(tmp_path / "data" / side)
    source = open_source(tmp_path / "data", split_seed=3)
    stored = json.loads(json.dumps(source.split()))
    assert open_source(tmp_path / "data", split=stored) == source
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert open_source(moved, split=stored).split() == stored


def test_stored_split_keeps_new_images_out(folder):
    source = open_source(folder)
    stored = source.split()
    assert stored.keys() == set(SIDES) and "red/0.png" in stored["train"] + stored["val"]
    shutil.copy(folder / "red" / "0.png", folder / "red" / "9.png")
    write_folder(folder / "new class", count=1)
    again = open_source(folder, split=stored)
    assert (again.train, again.val, again.classes) == (source.train, source.val, source.classes)
    assert again.ignored == 1


def test_stored_split_with_missing_files(folder):
    stored = open_source(folder).split()
    (folder / "red" / "0.png").unlink()
    shutil.rmtree(folder / "blue")
    with pytest.raises(DataError, match=r"the 18 images of the stored split, 7 of which are missing: 'blue/"):
        open_source(folder, split=stored)


@pytest.mark.parametrize(
    "split", [{}, {"train": ["red/0.png"]}, {"train": [], "val": [], "test": []}, {"train": 1, "val": [], "test": []}]
)
def test_damaged_split(folder, split):
    with pytest.raises(DataError, match="lists of file names under 'train', 'val' and 'test'"):
        open_source(folder, split=split)


def test_stored_split_does_not_leave_the_folder(folder):
    stored = open_source(folder).split()
    (folder.parent / "other").mkdir()
    shutil.copy(folder / "red" / "0.png", folder.parent / "other" / "0.png")
    stored["train"].append("../other/0.png")
    with pytest.raises(DataError, match=r"1 of which are missing: '\.\./other"):
        open_source(folder, split=stored)


def test_which_names_are_paths(tmp_path):
    assert is_path(tmp_path) and is_path("wds.tar") and is_path("./torch/a")
    assert not is_path("wds/shards") and not is_path("digits")


def draws(image):
    return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()]).expand(3, 1, 3)


def test_items(folder):
    examples = open_source(folder).train
    dataset = ImageDataset(examples, draws)
    batch = collate([dataset[2], dataset[(5, 7)]])
    assert batch[0].shape == (2, 3, 1, 3)
    assert batch[1].tolist() == [examples[2][1], examples[5][1]] and batch[2].tolist() == [2, 5]
    assert dataset.name_of(5) == str(examples[5][0]) and len(dataset) == len(examples)


def test_name_of_a_digit():
    source = open_source("digits")
    dataset = ImageDataset(source.val, draws)
    assert dataset.name_of(3) == source.val[3][0].info["name"]
    assert ImageDataset([(Image.new("RGB", (1, 1)), 0)], draws).name_of(0) == "image 0"


def test_seed_of_an_item_decides_all_random_numbers(folder):
    dataset = ImageDataset(open_source(folder).train, draws)
    largest = 2**64 - 1
    first = dataset[(0, 1)][0]
    assert torch.equal(dataset[(3, 1)][0], first) and torch.equal(dataset[(0, 1)][0], first)
    others = [dataset[(0, seed)][0] for seed in (2, 2**32 + 1, largest)]
    assert all((other[0] != first[0]).any() for other in others)
    assert (dataset[(0, 2)][0][0] != first[0]).all()  # each of the three generators
    assert not torch.equal(dataset[0][0], dataset[0][0])


def test_items_are_the_same_in_workers(folder):
    dataset = ImageDataset(open_source(folder).train, draws)
    keys = [(index, 100 + index) for index in range(4)]
    options = {"batch_sampler": [keys[:2], keys[2:]], "collate_fn": collate}
    loaders = [torch.utils.data.DataLoader(dataset, num_workers=workers, **options) for workers in (0, 2)]
    for one, other in zip(*loaders, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_errors_are_items(folder):
    source = open_source(folder)
    source.train[1][0].write_bytes(b"")
    dataset = ImageDataset(source.train, draws)
    error = collate([dataset[0], dataset[(1, 5)], dataset[2]])
    assert isinstance(error, BrokenImageError) and set(error.images) == {source.train[1][0]}


def test_sources_can_be_sent_to_processes(folder):
    source = open_source(folder)
    assert pickle.loads(pickle.dumps(source)) == source
    digits = pickle.loads(pickle.dumps(open_source("digits")))
    assert ImageDataset(digits.train, draws).name_of(0).endswith("of digits")
