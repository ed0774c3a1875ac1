"""Predict the classes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from regard.errors import DataError, OptionError
from regard.training.devices import default_device
from regard.training.images import read_image
from regard.training.run import Run


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of an image file.

    Attributes:
        image: the file.
        classes: the most probable classes with their probabilities, in descending order; empty if the file cannot be
            read.
        error: why the file cannot be read, or None.
    """

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: DataError | None = None


def predict(run: str | Path | Run, images: Sequence[str | Path], *, top: int = 5) -> list[Prediction]:
    """Predict the classes of image files one by one.

    Args:
        run: the run or its folder.
        images: the files. The prediction of a file that cannot be read holds the error.
        top: number of classes to return per image; all classes if there are fewer.

    Returns:
        One prediction per file, in the order given.

    Raises:
        DataError: the folder is not a run.
        OptionError: `top` is less than 1.
        TypeError: `images` is one file instead of a list.

    Example:
        >>> from PIL import Image
        >>> from regard.training import TrainConfig, train
        >>> folder = getfixture("tmp_path")
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=folder / "run", epochs=1,
        ...                         image_size=8, device="cpu"))
        >>> Image.new("L", (8, 8)).save(folder / "black.png")
        >>> predictions = predict(run, [folder / "black.png", folder / "gone.png"])
        >>> print(*(len(prediction.classes) for prediction in predictions))
        5 0
    """
    if isinstance(images, str | Path):
        raise TypeError(f"images must be a list of files, got {str(images)!r}; pass a list: [{str(images)!r}]")
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
    run = run if isinstance(run, Run) else Run.open(run)
    device = default_device()
    model = run.load_model().to(device)
    top = min(top, len(run.config.classes))
    predictions = []
    for image in map(Path, images):
        try:
            pixels = run.config.preprocessing(read_image(image))[None]  # [1, 3, H, W]
        except DataError as error:
            predictions.append(Prediction(image, error=error))
            continue
        with torch.inference_mode():
            best = model(pixels.to(device)).softmax(-1)[0].topk(top)
        names = (run.config.classes[index] for index in best.indices.tolist())
        predictions.append(Prediction(image, tuple(zip(names, best.values.tolist(), strict=True))))
    return predictions
