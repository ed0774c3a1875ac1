"""Predict the classes of image files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.errors import DataError, OptionError
from regard.training.classifier import Classifier
from regard.training.inference import Answer, Inference, infer
from regard.training.run import Run
from regard.training.selection import select_images


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


def predict(
    model: str | Path | Run | Classifier,
    images: Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    top: int = 5,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    engine: str = "local",
    actors: int = 2,
) -> list[Prediction]:
    """Predict the classes of image files.

    Args:
        model: a run or its folder; or a model's name, with `weights`.
        images: files, folders, patterns, or "-" for standard input; see `select_images`. The prediction of a file that
            cannot be read holds the error.
        weights: the weights of a model that is not a run; see `Classifier.open`.
        classes: the names of the model's classes; see `Classifier.open`.
        top: number of classes to return per image; all classes if there are fewer.
        batch_size: images per call of the model.
        workers: processes that read images; see `Inference`.
        device: device of the model; see `Inference`.
        engine: "local", or "ray" for any number of machines.
        actors: copies of the model with Ray.

    Returns:
        One prediction per file, in the order given.

    Raises:
        DataError: the folder is not a run, or a folder or a pattern has no image.
        OptionError: an unknown model, no weights, or an option out of range.
        CheckpointError: the weights do not fit the model.
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
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
    options = Inference(batch_size=batch_size, workers=workers, device=device, engine=engine, actors=actors)
    files = select_images(images)
    classifier = Classifier.open(model, weights, classes=classes)
    classifier.require_classes()
    answers = infer(classifier, files, "probabilities", options)
    return [_predict(file, answer, classifier, top) for file, answer in zip(files, answers, strict=True)]


def write_csv(predictions: Sequence[Prediction], file: str | Path) -> None:
    """Write predictions as CSV: image, error, and pairs of columns class_1, probability_1, class_2, ...

    Example:
        >>> file = getfixture("tmp_path") / "predictions.csv"
        >>> write_csv([Prediction(Path("a.png"), (("cat", 0.75),))], file)
        >>> print(file.read_text())
        image,error,class_1,probability_1
        a.png,,cat,0.75
        <BLANKLINE>
    """
    ranks = range(1, 1 + max((len(prediction.classes) for prediction in predictions), default=0))
    heading = ["image", "error", *(f"{word}_{rank}" for rank in ranks for word in ("class", "probability"))]
    with Path(file).open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:  # any file name
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(heading)
        for prediction in predictions:
            error = "" if prediction.error is None else str(prediction.error)
            cells = [cell for pair in prediction.classes for cell in pair]
            writer.writerow([prediction.image, error, *cells, *[""] * (len(heading) - 2 - len(cells))])


def _predict(image: Path, answer: Answer, classifier: Classifier, top: int) -> Prediction:
    if isinstance(answer, DataError):
        return Prediction(image, error=answer)
    best = np.argsort(-answer, kind="stable")[:top].tolist()
    return Prediction(image, tuple((classifier.classes[index], float(answer[index])) for index in best))
