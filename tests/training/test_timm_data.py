"""Tar files, datasets of torchvision, and the other collections that timm reads."""

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.dataset import IterableImageDataset
from torch.utils.data import DataLoader

import regard.training.timm_data
from pictures import COLORS, write_folder
from regard.errors import BrokenImageError, DataError, MissingDependencyError, OptionError, UnsupportedError
from regard.training import open_source, read_image
from regard.training.data import ImageDataset, collate, labels_of, open_test_images
from regard.training.lazy import LazyImages
from regard.training.streams import Stream, StreamDataset


def write_tar(path, *folders, root):
    """Write the images below some folders, named relative to `root`."""
    with tarfile.open(path, "w") as tar:
        for folder in folders:
            for image in sorted(folder.rglob("*")):
                if image.is_file():
                    tar.add(image, image.relative_to(root).as_posix())
    return path


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def agrees(source, folder, sizes):
    """Check that the images of a source are those of a folder, each once, with its class as label."""
    expected = {read_image(path).tobytes(): path.parent.name for path in sorted(folder.rglob("*.png"))}
    found = [(image, label) for side in (source.train, source.val, source.test) for image, label in side]
    assert source.classes == ("blue", "green", "red")
    assert (len(source.train), len(source.val), len(source.test)) == sizes and len(found) == len(expected)
    assert {image.tobytes(): source.classes[label] for image, label in found} == expected
    for side in (source.train, source.val, source.test):
        assert labels_of(side) == [label for _, label in side]


def test_tar(folder, tmp_path):
    tar = write_tar(tmp_path / "photos.tar", folder, root=folder)
    source = open_source(tar)
    plain = open_source(folder)
    agrees(source, folder, (len(plain.train), len(plain.val), 0))
    assert {image.info["name"] for image, _ in source.val} == {
        f"{tar}/{path.relative_to(folder)}" for path, _ in plain.val
    }
    assert labels_of(open_source(tar, split_seed=1).val) != labels_of(source.val)
    assert source.split() == {} and source.files() == [] and source.root is None


def test_tar_in_other_tools_style(folder, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, "./")  # with entries of the folders, and names like ./red/0.png
    agrees(open_source(tmp_path / "photos.tar"), folder, (13, 5, 0))


def test_tar_with_sides(tmp_path):
    for count, side in enumerate(("train", "val"), start=1):
        write_folder(tmp_path / "data" / side, count=count)
        for index, image in enumerate(sorted((tmp_path / "data" / side).rglob("*.png"))):
            Image.new("RGB", (2, 2), (index, count, 0)).save(image)
    tar = write_tar(tmp_path / "data.tar", tmp_path / "data", root=tmp_path / "data")
    source = open_source(tar)
    agrees(source, tmp_path / "data", (3, 6, 0))
    assert all("/train/" in image.info["name"] for image, _ in source.train)


@pytest.fixture
def distinct(tmp_path):
    """A folder with three sides of 3, 6 and 9 different images."""
    for count, side in enumerate(("train", "val", "test"), start=1):
        for name in COLORS:
            (tmp_path / "data" / side / name).mkdir(parents=True)
            for index in range(count):
                color = (index, count, len(name))
                Image.new("RGB", (3, 2), color).save(tmp_path / "data" / side / name / f"{index}.png")
    return tmp_path / "data"


def test_tar_per_side(distinct, tmp_path):
    (tmp_path / "tars").mkdir()
    for side in ("train", "val", "test"):
        write_tar(tmp_path / "tars" / f"{side}.tar", distinct / side, root=distinct / side)
    agrees(open_source(tmp_path / "tars"), distinct, (3, 6, 9))
    assert len(open_test_images(tmp_path / "tars").test) == 9


def test_tar_per_class(distinct, tmp_path):
    for side in ("train", "val"):
        (tmp_path / "tars" / side).mkdir(parents=True)
        for name in COLORS:
            write_tar(tmp_path / "tars" / side / f"{name}.tar", distinct / side / name, root=distinct / side / name)
    shutil.rmtree(distinct / "test")
    source = open_source(tmp_path / "tars")
    agrees(source, distinct, (3, 6, 0))
    assert source.train[0][0].info["name"] == str(tmp_path / "tars" / "train" / "blue.tar" / "0.png")


def test_tar_of_tars(distinct, tmp_path):
    (tmp_path / "tars").mkdir()
    for side in ("train", "val", "test"):
        inner = [
            write_tar(tmp_path / f"{name}.tar", distinct / side / name, root=distinct / side / name) for name in COLORS
        ]
        with tarfile.open(tmp_path / "tars" / f"{side}.tar", "w") as outer:
            for tar in inner:
                outer.add(tar, tar.name)
    source = open_source(tmp_path / "tars")
    agrees(source, distinct, (3, 6, 9))
    assert source.train[0][0].info["name"] == str(tmp_path / "tars" / "train.tar" / "blue.tar" / "0.png")


def test_train_and_test_tars(distinct, tmp_path):
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "train.tar", distinct / "test", root=distinct / "test")
    write_tar(tmp_path / "tars" / "test.tar", distinct / "val", root=distinct / "val")
    shutil.rmtree(distinct / "train")
    agrees(open_source(tmp_path / "tars"), distinct, (6, 3, 6))


def test_tar_is_read_by_several_workers(folder, tmp_path):
    source = open_source(write_tar(tmp_path / "photos.tar", folder, root=folder))
    dataset = ImageDataset(source.train, pixels)
    expected = collate([dataset[index] for index in range(len(dataset))])  # in this process, before the workers start
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate))
    for part in range(3):
        assert torch.equal(torch.cat([batch[part] for batch in batches]), expected[part])


def test_lazy_images_are_read_when_they_are_used(folder, tmp_path):
    tar = write_tar(tmp_path / "photos.tar", folder, root=folder)
    side = open_source(tar).train
    part = side[1::3]
    assert isinstance(part, LazyImages) and part[1:].labels() == labels_of(side)[4::3]
    assert part[0][0].tobytes() == side[1][0].tobytes()
    sent = pickle.loads(pickle.dumps(part))
    assert sent[0][0].tobytes() == part[0][0].tobytes()
    tar.unlink()
    assert len(part) == len(labels_of(part)) > 2
    with pytest.raises(BrokenImageError, match=r"photos\.tar/.*, which cannot be read \(.*No such file"):
        part[0]


def test_broken_image_in_a_tar(folder, tmp_path):
    for image in folder.rglob("*.png"):
        image.write_bytes(image.read_bytes()[:60])
    dataset = ImageDataset(open_source(write_tar(tmp_path / "photos.tar", folder, root=folder)).train, pixels)
    error = collate([dataset[0]])
    assert isinstance(error, BrokenImageError) and f"{tmp_path}/photos.tar/blue/" in str(error)


@pytest.mark.parametrize("content", [b"", b"no tar", None])
def test_wrong_tar(tmp_path, content):
    path = tmp_path / "photos.tar"
    if content is None:
        write_tar(path, root=tmp_path)  # an empty one
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"expected a tar file .*photos\.tar', which timm cannot list"):
        open_source(path)


def test_tars_with_other_classes(distinct, tmp_path):
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "train.tar", distinct / "train", root=distinct / "train")
    write_tar(tmp_path / "tars" / "val.tar", distinct / "val" / "red", root=distinct / "val")
    with pytest.raises(DataError, match=r"val of .* the 3 classes of train, got 1: missing 'blue', 'green'"):
        open_source(tmp_path / "tars")


def test_single_image_per_class_in_a_tar(distinct, tmp_path):
    tar = write_tar(tmp_path / "a.tar", distinct / "train", root=distinct / "train")
    with pytest.raises(DataError, match=r"at least 2 images per class.*got 1 in .*a\.tar/blue' and in 2 other classes"):
        open_source(tar)


def write_digits(root, sizes=(4, 3)):
    """Write files in the format of MNIST (http://yann.lecun.com/exdb/mnist): big-endian sizes, then bytes."""
    (root / "MNIST" / "raw").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for size, side in zip(sizes, ("train", "t10k"), strict=True):
        images, labels = noise.integers(0, 256, (size, 28, 28), np.uint8), np.arange(size, dtype=np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = [0x800 + values.ndim, *values.shape]
            content = np.array(header, ">i4").tobytes() + values.tobytes()
            (root / "MNIST" / "raw" / f"{side}-{kind}-ubyte").write_bytes(content)
    return root


def test_torchvision(tmp_path):
    source = open_source("torch/mnist", root=write_digits(tmp_path))
    assert len(source.train) == 4 and len(source.val) == 3 and source.test == ()
    assert len(source.classes) == 10 and source.classes[3] == "3 - three"
    assert labels_of(source.train) == [0, 1, 2, 3] and labels_of(source.val) == [0, 1, 2]
    image, label = source.val[2]
    expected = np.random.default_rng(0)
    expected.integers(0, 256, (4, 28, 28), np.uint8)
    assert label == 2 and image.mode == "RGB"
    assert (np.array(image)[..., 1] == expected.integers(0, 256, (3, 28, 28), np.uint8)[2]).all()
    assert ImageDataset(source.val, pixels).name_of(2) == "image 2 of torch/mnist validation"


def test_torchvision_folder(distinct):
    shutil.rmtree(distinct / "test")
    agrees(open_source("torch/image_folder", root=distinct), distinct, (3, 6, 0))
    source = open_source("torch/image_folder", root=distinct, train_split="val", val_split="train")
    assert (len(source.train), len(source.val)) == (6, 3)


def test_torchvision_without_its_files(tmp_path):
    with pytest.raises(DataError, match=r"got 'torch/mnist' with the split 'train': Dataset not found"):
        open_source("torch/mnist", root=tmp_path)
    with pytest.raises(DataError, match=r"got 'torch/none' with the split 'train': Unknown torchvision dataset none"):
        open_source("torch/none", root=tmp_path)
    with pytest.raises(DataError, match="root=FOLDER"):
        open_source("torch/mnist")


def test_label_without_a_class(tmp_path):
    source = open_source("torch/mnist", root=write_digits(tmp_path, sizes=(12, 1)))
    with pytest.raises(DataError, match="label from 0 to 9, got 11 for image 11 of torch/mnist train"):
        source.train[11]


def test_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(regard.training.timm_data.PACKAGES, "hfds", ("no_such_package", "data"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'regard\[data\]'"):
        open_source("hfds/cifar10")


class Shards:
    """A reader of timm's interface that counts."""

    def __init__(self, images, class_to_idx):
        self.images, self.class_to_idx, self.epoch, self.batch_size, self.workers = images, class_to_idx, 0, 1, 1

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, self.images, step):
            yield Image.new("RGB", (2, 2), (index, self.epoch, 0)), index % 3

    def __len__(self):
        return -(-self.images // self.batch_size) * self.batch_size * self.workers

    def set_epoch(self, epoch):
        self.epoch = epoch

    def set_loader_cfg(self, num_workers):
        self.workers = num_workers


@pytest.fixture
def sharded(monkeypatch):
    """Open datasets of timm's class with `Shards`, with the classes in the returned dictionary."""
    classes = {"a": 0, "c": 2, "b": 1}

    def create(name, root, *, split, is_training):
        assert (name, root, is_training) == ("wds/data/shards", "data/shards", split == "train")
        return IterableImageDataset(root, reader=Shards(10 if is_training else 4, classes))

    monkeypatch.setattr("timm.data.create_dataset", create)
    monkeypatch.setitem(regard.training.timm_data.PACKAGES, "wds", ("timm", "data"))
    return classes


def test_stream(sharded):
    source = open_source("wds/data/shards", val_split="val")
    assert source.classes == ("a", "b", "c") and isinstance(source.train, Stream)
    assert (len(source.train), len(source.val), source.test, source.files()) == (10, 4, (), [])
    source.train.set_epoch(7)
    source.train.prepare(batch_size=4, workers=2)
    assert len(source.train) == 24
    assert [(image.getpixel((0, 0))[:2], label) for image, label in source.train][4] == ((4, 7), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_dataset_of_a_stream(sharded, workers):
    dataset = StreamDataset(open_source("wds/data/shards").train, pixels)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=workers, collate_fn=collate))
    images, labels, indices = (torch.cat([batch[part] for batch in batches]) for part in range(3))
    assert sorted(indices.tolist()) == list(range(10)) and images[:, 0, 0, 0].tolist() == indices.tolist()
    assert labels.tolist() == [index % 3 for index in indices.tolist()]
    assert len(dataset) == 10 and dataset.name_of(3) == "image 3 of wds/data/shards train"


def test_stream_without_class_names(sharded):
    sharded.clear()
    with pytest.raises(DataError, match=r"'wds/data/shards' to name its classes, got no names; set num_classes"):
        open_source("wds/data/shards")
    assert open_source("wds/data/shards", num_classes=3).classes == ("0", "1", "2")
    with pytest.raises(OptionError, match=r"num_classes is for datasets of timm .*, not for 'digits'; leave it out"):
        open_source("digits", num_classes=10)
    (error,) = list(StreamDataset(open_source("wds/data/shards", num_classes=2).train, pixels))[2:]
    assert isinstance(error, DataError) and "label from 0 to 1, got 2 for wds/data/shards train" in str(error)


def test_labels_of_a_stream(sharded):
    with pytest.raises(UnsupportedError, match="the stream 'wds/data/shards train'; use equal class weights"):
        labels_of(open_source("wds/data/shards").train)


def write_shards(root):
    """Write a web dataset: two shards of 4 images, which the classes 0 and 1 share, and their description."""
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"train-{shard}.tar", "w") as tar:
            for index in range(4):
                image = io.BytesIO()
                Image.new("RGB", (4, 4), (10 * (4 * shard + index), 0, 0)).save(image, "PNG")
                for ending, content in (("png", image.getvalue()), ("cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(f"{4 * shard + index}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    split = {"name": "train", "num_samples": 8, "filenames": ["train-0.tar", "train-1.tar"], "shard_lengths": [4, 4]}
    (root / "_info.json").write_text(json.dumps({"splits": {"train": split, "validation": {**split, "name": "val"}}}))
    return root


@pytest.mark.filterwarnings("ignore")  # webdataset leaves files open
def test_web_dataset(tmp_path):
    source = open_source(f"wds/{write_shards(tmp_path / 'shards')}", num_classes=2)
    for side in (source.train, source.val):
        side.prepare(batch_size=4, workers=0)
        items = [(image.getpixel((0, 0))[0] // 10, label) for image, label in side]
        assert sorted(items) == [(index, index % 2) for index in range(8)] and len(side) == 8


@pytest.fixture
def hub(distinct, tmp_path, monkeypatch):
    """A local dataset in the layout of the package `datasets`, in a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="brings pandas and more: pip install 'regard[data]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(distinct / "test")
    return distinct


def test_hub_dataset(hub, tmp_path):
    source = open_source(f"hfds/{hub}", root=tmp_path / "cache")
    agrees(source, hub, (3, 6, 0))
    assert source.train[1][0].info["name"] == f"image 1 of hfds/{hub} train"
    assert source.train[1:].labels() == [1, 2]


def test_hub_dataset_without_a_split(hub, tmp_path):
    with pytest.raises(DataError, match="with the split 'none'"):
        open_source(f"hfds/{hub}", root=tmp_path / "cache", val_split="none")


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names: {'0': blue, '1': green, '2': red}
  splits:
  - {name: train, num_examples: 3, num_bytes: 1}
  - {name: validation, num_examples: 6, num_bytes: 1}
---
"""


@pytest.mark.filterwarnings("ignore")
def test_streamed_hub_dataset(hub, tmp_path):
    (hub / "README.md").write_text(CARD)
    source = open_source(f"hfids/{hub}", root=tmp_path / "cache")
    assert source.classes == ("blue", "green", "red") and (len(source.train), len(source.val)) == (3, 6)
    for side, name in ((source.train, "train"), (source.val, "val")):
        expected = {read_image(path).tobytes(): path.parent.name for path in sorted((hub / name).rglob("*.png"))}
        assert {image.tobytes(): source.classes[label] for image, label in side} == expected
