"""Reading images and finding them in folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regard.errors import DataError
from regard.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The file names, by their endings, that count as images in a folder."""


def read_image(path: str | Path) -> Image:
    """Read an image file as RGB, the way a viewer shows it.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit gray is scaled by its range (divided
    by 257, not clipped), and of an animation the first frame is taken.

    Args:
        path: a file in one of Pillow's formats; its name's ending does not matter.

    Returns:
        An image of mode `RGB`.

    Raises:
        DataError: the file is missing, empty, truncated, no image, or holds numbers without an agreed range.
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
        raise DataError(f"expected an image file, got the folder {str(path)!r}; name the files in it")
    if not path.is_file():
        raise DataError(f"expected an image file, got {str(path)!r}, which does not exist; check the name")
    if path.stat().st_size == 0:
        raise DataError(f"expected an image, got the empty file {str(path)!r} (0 bytes); replace or remove it")
    try:
        with pil.open(path) as image:
            return _to_rgb(require("PIL.ImageOps", extra="train").exif_transpose(image))
    except pil.UnidentifiedImageError as error:
        raise DataError(
            f"expected an image, got {str(path)!r}, whose content is no known image format; replace or remove it"
        ) from error
    except Exception as error:  # the decoders' errors have no common base
        raise DataError(
            f"expected a complete image, got {str(path)!r}, which cannot be decoded ({error}); replace or remove it"
        ) from error


def _to_rgb(image: Image) -> Image:
    pil = require("PIL.Image", extra="train")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without an agreed range; save it with 8 or 16 bits")
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
    """List the images below a folder in a fixed order, and count the files passed over.

    Returns:
        The images, and how many other files there are: hidden ones, and those whose ending is not in `SUFFIXES`.
    """
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    images = [path for path in files if path.suffix.lower() in SUFFIXES and not _hidden(path.relative_to(folder))]
    return images, len(files) - len(images)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
