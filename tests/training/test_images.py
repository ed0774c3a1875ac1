import os
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from regard.errors import BrokenImageError
from regard.training import Preprocessing, read_image
from regard.training.images import find_images, why_broken

from .permissions import bound_by_permissions


def read_pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.array(image).tolist()


def read_saved(image, path, **options):
    image.save(path, **options)
    assert why_broken(path) is None and why_broken(path, decode=True) is None
    return read_pixels(path)


def test_gray(tmp_path):
    assert read_saved(Image.new("L", (1, 1), 7), tmp_path / "a.png") == [[[7, 7, 7]]]


def test_bilevel(tmp_path):
    assert read_saved(Image.new("1", (2, 1), 1), tmp_path / "a.png") == [[[255, 255, 255]] * 2]


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert read_saved(image, tmp_path / "a.png") == [[[10, 20, 30], [40, 50, 60]]]


def test_transparent_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert read_saved(image, tmp_path / "a.png", transparency=0) == [[[255, 255, 255], [40, 50, 60]]]


def test_alpha_lies_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (0, 100, 200, 0))
    image.putpixel((1, 0), (0, 100, 200, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth
    assert read_saved(image, tmp_path / "a.png") == [[[255] * 3, [0, 100, 200], [204] * 3]]


def test_gray_with_alpha(tmp_path):
    image = Image.new("LA", (2, 1), (9, 0))
    image.putpixel((1, 0), (9, 255))
    assert read_saved(image, tmp_path / "a.png") == [[[255] * 3, [9] * 3]]


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_gray_is_scaled(tmp_path, ending):
    image = Image.fromarray(np.array([[0, 257, 257 * 100 + 128, 257 * 100 + 129, 65535]], dtype=np.uint16))
    assert read_saved(image, tmp_path / f"a.{ending}") == [[[value] * 3 for value in (0, 1, 100, 101, 255)]]


def test_transparent_16_bit_gray(tmp_path):
    image = Image.fromarray(np.array([[300, 301, 65535]], dtype=np.uint16))  # both are 1 in 8 bits
    assert read_saved(image, tmp_path / "a.png", transparency=300) == [[[255] * 3, [1] * 3, [255] * 3]]


def test_cmyk(tmp_path):
    assert read_saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), tmp_path / "a.tiff") == [[[255, 0, 0]]]


def test_exif_rotation(tmp_path):
    image = Image.new("RGB", (2, 1), (255, 0, 0))
    image.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right
    assert read_saved(image, tmp_path / "a.png", exif=exif) == [[[255, 0, 0]], [[0, 0, 255]]]


@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_read_as_by_a_full_decoding(tmp_path, mode, orientation):
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(noise).resize((50, 70)).convert(mode).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    got = read_image(tmp_path / "a.jpg")
    assert got.size == expected.size == ((70, 50) if orientation in (5, 6, 7, 8) else (50, 70))
    assert got.tobytes() == expected.tobytes()


def test_read_images_do_not_keep_their_files(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 4), (9, 9, 9)).save(path)
    image = read_image(path)
    path.write_bytes(b"")
    assert pickle.loads(pickle.dumps(image)).tobytes() == image.resize((4, 4)).tobytes()


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (1, 1), color) for color in ((255, 0, 0), (0, 255, 0))]
    assert read_saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:]) == [[[255, 0, 0]]]


def test_ending_does_not_matter(tmp_path):
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    assert read_pixels((tmp_path / "a.png").rename(tmp_path / "a.dat")) == [[[0, 0, 0]]]


def fails(path, reason):
    with pytest.raises(BrokenImageError, match=reason) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and raised.value.images == {path: why_broken(path)}
    assert pickle.loads(pickle.dumps(raised.value)).images == raised.value.images  # worker processes send it


def test_missing(tmp_path):
    fails(tmp_path / "a.png", "does not exist")


def test_folder(tmp_path):
    fails(tmp_path, "is a folder; name the files in it")


def test_empty(tmp_path):
    (tmp_path / "a.png").touch()
    fails(tmp_path / "a.png", "0 bytes")


def test_text(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    fails(tmp_path / "a.png", "no known image format")


def test_link_to_a_missing_file(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    fails(tmp_path / "a.png", "is a link to a missing file")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
def test_file_without_permission():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.png"
        Image.new("L", (1, 1)).save(path)
        path.chmod(0)
        with bound_by_permissions(folder):
            fails(path, "may not be read; change its permissions")


@pytest.mark.parametrize("side", [11, 20])  # beyond the limit, where Pillow warns, and beyond twice of it
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_decompression_bomb(tmp_path, monkeypatch, side, action):
    Image.new("RGB", (side, side)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (side, side)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        fails(tmp_path / "a.png", rf"is too large \(.*({side} x {side}|{side * side}) pixels.*with fewer pixels")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)  # the user's own decision
    assert read_image(tmp_path / "a.png").size == (side, side)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_truncated(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, "cannot be decoded|no known image format")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif"])
def test_complete_files_are_not_decoded(tmp_path, ending, monkeypatch):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (64, 64)).save(path)
    monkeypatch.setattr("regard.training.images.read_image", None)
    assert why_broken(path) is None


def test_damage_in_the_middle_is_found_by_checksums_or_decoding(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name, is_found in (("a.png", True), ("a.gif", False)):
        path = tmp_path / name
        image.save(path)
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
        assert (why_broken(path) is not None) is is_found
        assert is_found is False or "cannot be decoded" in why_broken(path, decode=True)


def test_floats(tmp_path):
    Image.new("F", (2, 2), 0.5).save(tmp_path / "a.tiff")
    fails(tmp_path / "a.tiff", "floating-point numbers without a known range")


def test_32_bit_integers(tmp_path):
    Image.new("I", (2, 2), 70000).save(tmp_path / "a.tiff")
    fails(tmp_path / "a.tiff", "beyond the 16-bit range")


def test_find_images(tmp_path):
    for name in ("b/2.JPG", "a.png", "notes.txt", ".hidden.png", ".cache/c.png", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == ([tmp_path / "a.png", tmp_path / "b/2.JPG"], 4)


def test_images_are_found_in_the_order_of_their_paths(tmp_path):
    for name in ("b/1.png", "b.png", "b 1.png", "b/a/1.png", "a/1.png", "B.png", "10.png", "9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images, others = find_images(tmp_path)
    assert images == sorted(tmp_path.rglob("*.png")) and others == 0


def test_preprocessing_keeps_pixels_that_fit():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    got = Preprocessing(8, mean=(0.0, 0.5, 0.0), std=(1.0, 0.25, 1.0))(Image.fromarray(pixels))
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    expected[1] = (expected[1] - 0.5) / 0.25
    assert torch.equal(got, expected)


def test_preprocessing_takes_the_central_square():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 20, 10))
    got = Preprocessing(10, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(image)
    assert torch.equal(got, torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 10, 10))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 2)])
def test_preprocessing_of_odd_sizes(size):
    assert Preprocessing(8, crop_pct=0.9)(Image.new("RGB", size)).shape == (3, 8, 8)
