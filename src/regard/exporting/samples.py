"""The images on which an exported file is compared with its model: photographs too, since random ones hide errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.errors import MissingDependencyError
from regard.extras import require
from regard.models import Preprocessing
from regard.training.images import read_image
from regard.training.selection import select_images

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 8
SEED = 0


def sample_images(
    preprocessing: Preprocessing, images: Sequence[str | Path] | None = None, *, in_chans: int = 3
) -> tuple[Tensor, list[str]]:
    """Return normalized images `[B, C, H, W]` and their names, a random one last.

    Args:
        preprocessing: the model's.
        images: files, folders or patterns, of which the first eight images are used; None uses scikit-learn's two
            photographs if it is installed.
        in_chans: channels of the model; a model without three gets random images only.

    Raises:
        DataError: there is no image, or one that cannot be read.
    """
    if in_chans != 3:
        found: list[tuple[str, Image]] = []
    elif images is None:
        found = _photographs()
    else:
        found = [(path.name, read_image(path)) for path in select_images(images)[:MAX_IMAGES]]
    side, generator = preprocessing.image_size, torch.Generator().manual_seed(SEED)
    tensors = [preprocessing(image) for _, image in found]
    tensors.append(torch.randn(in_chans, side, side, generator=generator))
    return torch.stack(tensors), [*(name for name, _ in found), "random"]


def to_pixels(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo the normalization: `[B, 3, H, W]` to `[B, H, W, 3]` in uint8.

    Example:
        >>> to_pixels(torch.zeros(1, 3, 2, 2), Preprocessing(2, mean=(0.5, 0.5, 0.5), std=(1, 1, 1))).unique()
        tensor([128], dtype=torch.uint8)
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _photographs() -> list[tuple[str, Image]]:
    try:
        datasets, pillow = require("sklearn.datasets", "export"), require("PIL.Image", "export")
    except MissingDependencyError:
        return []
    loaded = datasets.load_sample_images()
    named = zip(loaded.filenames, loaded.images, strict=True)
    return [(Path(name).name, pillow.fromarray(np.asarray(image))) for name, image in named]
