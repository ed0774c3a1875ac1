"""Find, check and read image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from regard.errors import BrokenImageError, DataError
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
    try:
        return decode_image(path)
    except Exception as error:  # the decoders' exceptions have no common base class
        raise _broken(path, error) from error


def decode_image(file: Path | IO[bytes]) -> Image:
    """Return the image in an open file like `read_image`, but raise the decoders' own exceptions."""
    with _open(file) as image:
        require("PIL.ImageOps", extra="train").exif_transpose(image, in_place=True)
        return to_rgb(image)


def _open(file: Path | IO[bytes]) -> Image:
    """Open an image without decoding it, unless it has too many pixels to be decoded safely."""
    pil = require("PIL.Image", extra="train")
    image = pil.open(file)
    if pil.MAX_IMAGE_PIXELS is not None and image.width * image.height > pil.MAX_IMAGE_PIXELS:
        image.close()
        raise pil.DecompressionBombError(
            f"{image.width} x {image.height} pixels exceed Pillow's limit of {pil.MAX_IMAGE_PIXELS} pixels"
        )
    return image


def _broken(path: Path, error: Exception) -> BrokenImageError:
    """Return the error for a file that could not be read, with the reason that the file system or a decoder gave."""
    pil = require("PIL.Image", extra="train")
    if isinstance(error, FileNotFoundError):
        reason = "is a link to a missing file" if path.is_symlink() else "does not exist"
        return BrokenImageError({path: reason}, remedy="check the name")
    if isinstance(error, IsADirectoryError):
        return BrokenImageError({path: "is a folder"}, remedy="name the files in it")
    if isinstance(error, PermissionError):
        return BrokenImageError({path: "may not be read"}, remedy="change its permissions")
    if isinstance(error, pil.DecompressionBombError | pil.DecompressionBombWarning):
        return BrokenImageError({path: f"is too large ({error})"}, remedy="save it with fewer pixels, or remove it")
    if isinstance(error, pil.UnidentifiedImageError):
        is_empty = path.stat().st_size == 0
        return BrokenImageError({path: "is empty (0 bytes)" if is_empty else "has no known image format"})
    return BrokenImageError({path: f"cannot be decoded ({error})"})


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
        with _open(path) as image, path.open("rb") as file:
            marker = END_MARKERS.get(image.format)
            if marker is None or image.mode.startswith(("F", "I")):
                return False
            image.verify()  # reads the checksums of PNG
            file.seek(-len(marker), 2)
            return file.read() == marker
    except Exception:  # `read_image` finds the reason
        return False


def to_rgb(image: Image) -> Image:
    """Return a decoded image in mode RGB, with transparent pixels on white and 16-bit gray scaled to 8 bits."""
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
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy it


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its pixels are 32-bit integers beyond the 16-bit range; save it with 8 or 16 bits")
    return ((pixels + 128) // 257).astype(np.uint8)  # rounds: 65535 = 255 * 257


def find_images(folder: Path) -> tuple[list[Path], int]:
    """List the images below a folder in a fixed order, and count the other files.

    Links to folders are not followed, so a loop of links ends and no image counts twice.

    Returns:
        The images, and the number of files that are hidden or have a suffix that is not in `SUFFIXES`, and of links to
        folders.

    Raises:
        DataError: a folder cannot be read.
    """
    images, others = [], 0
    for place, folders, files in os.walk(folder, onerror=_raise_unreadable):
        inside = Path(place).relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in inside)
        found = [] if is_hidden else [name for name in files if _is_image(name)]
        images += [(*inside, name) for name in found]
        others += len(files) - len(found) + sum(Path(place, name).is_symlink() for name in folders)
    return [folder.joinpath(*parts) for parts in sorted(images)], others


def _is_image(name: str) -> bool:
    return name.lower().endswith(tuple(SUFFIXES)) and not name.startswith(".")


def unreadable(error: OSError) -> DataError:
    """Return the error for a folder that cannot be listed."""
    return DataError(
        f"expected a folder that can be read, got {str(error.filename)!r} ({error.strerror}); change its permissions"
    )


def _raise_unreadable(error: OSError) -> None:
    raise unreadable(error) from error
