import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from regard.errors import BrokenImageError
from regard.training import Preprocessing, read_image
from regard.training.images import find_images, why_broken


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
