"""Names stand for the images that they should."""

from pathlib import Path

import pytest

from pictures import write_folder
from regard.errors import BrokenImageError, DataError
from regard.training.selection import select_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos", count=2)
    (tmp_path / "photos" / "red" / "notes.txt").touch()
    (tmp_path / "photos" / "red" / ".hidden.png").touch()
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def test_folders_are_searched_recursively(photos):
    expected = [photos / color / f"{index}.png" for color in ("blue", "green", "red") for index in range(2)]
    assert select_images([photos]) == expected


@pytest.mark.parametrize("pattern", ["photos/**/*.png", "photos/*/?.png", "photos/**/*", "photos/[bgr]*/*"])
def test_patterns(photos, pattern):
    assert select_images([pattern]) == select_images([photos])


def test_names_keep_their_order(photos):
    names = [photos / "red" / "1.png", photos / "blue", "photos/green/*", photos / "gone.png", photos / "red" / "1.png"]
    images = select_images(names)
    assert [image.parent.name for image in images] == ["red", "blue", "blue", "green", "green", "photos", "red"]


def test_files_with_the_characters_of_patterns(photos):
    file = photos / "a [1].png"
    (photos / "red" / "0.png").rename(file)
    assert select_images([file]) == [file]


def test_standard_input(photos):
    lines = ["photos/red/0.png\n", "\n", " photos/[no pattern].png \n"]
    assert select_images(["-", photos / "blue"], lines)[:3] == [
        Path("photos/red/0.png"),
        Path("photos/[no pattern].png"),
        photos / "blue" / "0.png",
    ]


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (["photos/empty"], "in the folder 'photos/empty'"),
        (["photos", "*.tif"], r"for the pattern '\*\.tif'"),
        (["-"], "on standard input, one path per line"),
    ],
)
def test_no_image(photos, names, where):
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=f"expected images {where}, got none"):
        select_images(names, [])


def test_no_existing_file(photos):
    with pytest.raises(BrokenImageError, match="2 that cannot be read; check the names"):
        select_images(["a.png", "b.png"])
