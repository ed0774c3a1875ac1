"""Find, check and read image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regard.errors import BrokenImageError
from regard.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The file name suffixes that count as images in a folder."""

END_MARKERS = {"GIF": b";", "JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a complete file, by Pillow's name of the format."""


def read_image(path: str | Path) -> Image:
    """Read an image file as RGB, as an image viewer shows it.

    The EXIF orientation is applied, transparent pixels are composited on white, and 16-bit gray is scaled by its range
    (divided by 257, not clipped). The first frame represents an animation.

    Args:
        path: a file in one of Pillow's formats, with any suffix.

    Returns:
        An image of mode `RGB`.

    Raises:
        BrokenImageError: the file is missing, empty, truncated or not an image, or its pixels have no known range.
        MissingDependencyError: Pillow is not installed.

    Example:
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("LA", (2, 1), (0, 0)).save(folder / "clear.png")
        >>> read_image(folder / "clear.png").getpixel((0, 0))
        (255, 255, 255)
    """
    path = Path(path)
    pil = require("PIL.Image", extra="train")
    if path.is_dir():
        raise BrokenImageError({path: "is a folder"}, remedy="name the files in it")
    if not path.is_file():
        raise BrokenImageError({path: "does not exist"}, remedy="check the name")
    try:
        if path.stat().st_size == 0:
            raise BrokenImageError({path: "is empty (0 bytes)"})
        with pil.open(path) as image:
            return _to_rgb(require("PIL.ImageOps", extra="train").exif_transpose(image))
    except BrokenImageError:
        raise
    except pil.UnidentifiedImageError as error:
        raise BrokenImageError({path: "has no known image format"}) from error
    except Exception as error:  # the decoders' exceptions have no common base class
        raise BrokenImageError({path: f"cannot be decoded ({error})"}) from error


def why_broken(path: Path, *, decode: bool = False) -> str | None:
    """Return why an image file cannot be read, or None if it can.

    Args:
        path: the file.
        decode: False reads the header, the checksums of PNG and the last bytes, and decodes the image only if these do
            not show that the file is complete. True decodes it in any case.
    """
    if not decode and _looks_complete(path):
        return None
    try:
        read_image(path)
    except BrokenImageError as error:
        return error.images[path]
    return None


def _looks_complete(path: Path) -> bool:
    """Whether a file has an image's header, a usual pixel format, valid checksums, and its format's last bytes."""
    try:
        with require("PIL.Image", extra="train").open(path) as image, path.open("rb") as file:
            marker = END_MARKERS.get(image.format)
            if marker is None or image.mode.startswith(("F", "I")):
                return False
            image.verify()  # reads the checksums of PNG
            file.seek(-len(marker), 2)
            return file.read() == marker
    except Exception:  # `read_image` finds the reason
        return False


def _to_rgb(image: Image) -> Image:
    pil = require("PIL.Image", extra="train")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        clear = pixels == image.info.get("transparency", -1)
        image = pil.fromarray(np.where(clear, np.uint8(255), _to_8_bit(pixels)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its pixels are 32-bit integers beyond the 16-bit range; save it with 8 or 16 bits")
    return ((pixels + 128) // 257).astype(np.uint8)  # rounds: 65535 = 255 * 257


def find_images(folder: Path) -> tuple[list[Path], int]:
    """List the images below a folder in a fixed order, and count the other files.

    Returns:
        The images, and the number of files that are hidden or have a suffix that is not in `SUFFIXES`.
    """
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    images = [path for path in files if path.suffix.lower() in SUFFIXES and not _is_hidden(path.relative_to(folder))]
    return images, len(files) - len(images)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
