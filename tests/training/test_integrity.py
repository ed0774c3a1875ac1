"""All images are checked before training starts, and what is known of them is kept."""

import os
import struct
import tarfile
import warnings
import zlib

import pytest
from PIL import Image

import regard.training.integrity
from pictures import write_folder
from regard.errors import BrokenImageError, DataError
from regard.training import Run, TrainConfig, Watcher, evaluate, open_source, train
from regard.training.images import why_broken
from regard.training.integrity import ReadableImages, check_images, suspect_all


def cut(*images):
    for image in images:
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def damaged(content):
    """Overwrite the compressed pixels of a PNG file, whose header, checksum and end are right."""
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    chunk = b"IDAT" + bytes(length)
    return content[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[start + 8 + length :]


@pytest.fixture
def checked(monkeypatch):
    """The names of the images that were looked at."""
    names = []

    def look(image, **options):
        names.append(image.name)
        return why_broken(image, **options)

    monkeypatch.setattr(regard.training.integrity, "why_broken", look)
    return names


def test_all_broken_images_are_listed_before_training(config, folder):
    broken = [folder / "red" / "0.png", folder / "blue" / "3.png", folder / "green" / "5.png"]
    cut(*broken[:2])
    broken[2].write_bytes(b"")
    with pytest.raises(BrokenImageError, match=r"got 3 that cannot be read; .*--skip-broken") as raised:
        train(TrainConfig(**config))
    assert set(raised.value.images) == set(broken)
    assert all(f"\n  {path}: {reason}" in str(raised.value) for path, reason in raised.value.images.items())
    assert not config["out"].exists()


def test_one_broken_image(config, folder):
    cut(folder / "red" / "0.png")
    with pytest.raises(BrokenImageError, match=r"red/0\.png', which cannot be .* leave it out with --skip-broken"):
        train(TrainConfig(**config))


def test_broken_images_do_not_cost_an_earlier_run(run, config, folder):
    cut(folder / "red" / "0.png")
    with pytest.raises(BrokenImageError):
        train(TrainConfig(**config, overwrite=True))
    assert Run.open(run.path).unfinished() is None


def test_skip_broken(config, tmp_path):
    class Keep(Watcher):
        def started(self, config, source, parameters):
            self.source = source

    folder = write_folder(tmp_path / "many", count=20)
    source = open_source(folder)
    broken = {source.train[0][0], source.val[-1][0]}
    cut(*broken)
    watcher = Keep()
    run = train(TrainConfig(**{**config, "data": folder}, skip_broken=True), watcher=watcher)
    assert set(watcher.source.skipped) == broken and all(watcher.source.skipped.values())
    used = watcher.source.files()
    assert len(used) == 58 and not broken & set(used)
    assert evaluate(run).images == len(watcher.source.val)  # leaves them out as the run did


def test_skip_broken_keeps_the_split(folder):
    before = open_source(folder)
    cut(before.train[0][0])
    after = check_images(open_source(folder), folder, skip_broken=True)
    assert after.train == before.train[1:] and after.val == before.val
    assert open_source(folder, split=after.split()).files() == after.files()


@pytest.mark.parametrize("side", ["train", "val", "test"])
def test_images_of_every_side_are_checked(tmp_path, side):
    for name in ("train", "val", "test"):
        write_folder(tmp_path / name)
    image = tmp_path / side / "red" / "0.png"
    cut(image)
    with pytest.raises(BrokenImageError) as raised:
        check_images(open_source(tmp_path), tmp_path)
    assert set(raised.value.images) == {image}
    source = check_images(open_source(tmp_path), tmp_path, skip_broken=True)
    assert image not in source.files() and len(source.files()) == 53


@pytest.mark.parametrize("side", ["train", "val"])
def test_skip_broken_leaves_a_class_without_images(folder, side):
    cut(*(image for image, label in getattr(open_source(folder), side) if label == 2))
    with pytest.raises(DataError, match=f"one readable {side} image per class, got only broken ones of 'red'"):
        check_images(open_source(folder), folder, skip_broken=True)


def test_evaluate_lists_all_broken_images(run, tmp_path):
    other = write_folder(tmp_path / "other")
    cut(other / "red" / "0.png", other / "blue" / "0.png")
    with pytest.raises(BrokenImageError) as raised:
        evaluate(run, other)
    assert len(raised.value.images) == 2
    assert evaluate(run, other, skip_broken=True).images == 16


def test_evaluate_needs_no_training_images(run, folder):
    cut(*(image for image, _ in open_source(folder).train))
    assert evaluate(run).images == len(open_source(folder).val)


def test_images_are_checked_once(folder, checked):
    source = open_source(folder)
    assert check_images(source, folder) == source and len(checked) == 18
    assert check_images(source, folder) == source and len(checked) == 18


def test_changed_and_broken_images_are_checked_again(folder, checked):
    check_images(open_source(folder), folder)
    checked.clear()
    os.utime(folder / "red" / "1.png", ns=(1, 1))
    cut(folder / "red" / "2.png")
    for _ in range(2):
        with pytest.raises(BrokenImageError, match=r"red/2\.png"):
            check_images(open_source(folder), folder)
    assert sorted(checked) == ["1.png", "2.png", "2.png"]


def test_suspects_are_decoded(folder):
    images = [folder / "red" / "1.png", folder / "blue" / "2.png"]
    contents = [image.read_bytes() for image in images]
    for image, content in zip(images, contents, strict=True):
        image.write_bytes(damaged(content))
    source = check_images(open_source(folder), folder)
    suspect_all(source, folder)
    with pytest.raises(BrokenImageError) as raised:
        check_images(open_source(folder), folder)
    assert set(raised.value.images) == set(images)  # at once
    for image, content in zip(images, contents, strict=True):
        image.write_bytes(content)
    check_images(open_source(folder), folder)
    assert all(ReadableImages(folder).has(image) for image in images)


def test_checksums_of_png_are_read(folder):
    image = folder / "red" / "1.png"
    content = bytearray(image.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    image.write_bytes(content)
    with pytest.raises(BrokenImageError, match=r"red/1\.png"):
        check_images(open_source(folder), folder)


def test_an_image_that_fails_in_an_epoch_is_found_at_the_next_start(config, folder):
    image = open_source(folder).train[0][0]
    content = image.read_bytes()
    image.write_bytes(damaged(content))
    for created in (True, False):
        with pytest.raises(BrokenImageError) as raised:
            train(TrainConfig(**config))
        assert set(raised.value.images) == {image} and config["out"].exists() is created
        assert "--skip-broken" in str(raised.value)
        config["out"] = config["out"].with_name("again")
    assert len(train(TrainConfig(**config, skip_broken=True)).metrics()) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '{"red/0.png": 1}', '{"red/0.png": []}'])
def test_damaged_cache_is_ignored(folder, checked, content):
    check_images(open_source(folder), folder)
    ReadableImages(folder).file.write_text(content)
    checked.clear()
    check_images(open_source(folder), folder)
    assert len(checked) == 18


def test_cache_that_cannot_be_written(folder, checked, monkeypatch):
    cache = ReadableImages(folder).file
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.mkdir()  # in the file's place
    check_images(open_source(folder), folder)
    check_images(open_source(folder), folder)
    assert len(checked) == 36 and not list(cache.parent.glob("*.unfinished"))


def test_interrupt_keeps_what_was_checked(folder, checked, monkeypatch):
    monkeypatch.setattr(regard.training.integrity, "BATCH", 5)

    def interrupt(count, total):
        assert total == 18
        if count == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_images(open_source(folder), folder, progress=interrupt)
    check_images(open_source(folder), folder)
    assert len(checked) == 18


def test_digits_need_no_check(checked):
    source = open_source("digits")
    assert check_images(source, "digits") is source and not checked
    suspect_all(source, "digits")
    assert not ReadableImages("digits").file.exists()


def test_tar_files_are_not_read(folder, checked):
    path = folder.parent / "photos.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "photos")
    source = open_source(path)
    path.unlink()
    assert check_images(source, path) is source and not checked
    suspect_all(source, path)


def test_decompression_bombs_are_found_before_training(folder, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 12 * 10)
    Image.new("RGB", (11, 11)).save(folder / "red" / "0.png")
    Image.new("RGB", (50, 50)).save(folder / "red" / "1.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of the tests, where Pillow prints its own
        with pytest.raises(BrokenImageError) as raised:
            check_images(open_source(folder), folder)
    reasons = {path.name: reason for path, reason in raised.value.images.items()}
    assert reasons["0.png"] == "is too large (11 x 11 pixels exceed Pillow's limit of 120 pixels)"
    assert "is too large (" in reasons["1.jpg"] and "2500 pixels" in reasons["1.jpg"] and len(reasons) == 2


def test_links_to_nowhere_are_found_before_training(folder):
    (folder / "red" / "gone.png").symlink_to(folder / "red" / "none.png")
    (folder / "red" / "loop.png").symlink_to("loop.png")
    with pytest.raises(BrokenImageError) as raised:
        check_images(open_source(folder), folder)
    reasons = {path.name: reason for path, reason in raised.value.images.items()}
    assert reasons["gone.png"] == "is a link to a missing file" and "symbolic links" in reasons["loop.png"]
    assert len(reasons) == 2
