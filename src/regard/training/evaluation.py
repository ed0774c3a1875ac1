"""Evaluate a run, or a model with a checkpoint, on labeled images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from regard.errors import BrokenImageError, DataError, OptionError
from regard.extras import require
from regard.training.calibration import expected_calibration_error
from regard.training.classifier import Classifier
from regard.training.confusion import Confusion, count
from regard.training.data import DIGITS, Example, ImageDataset, Source, collate, open_source, open_test_images
from regard.training.devices import choose_device
from regard.training.inference import Inference
from regard.training.integrity import AGAIN, check_images, suspect_all
from regard.training.run import Run
from regard.training.score import Score, Tally, unpack
from regard.training.streams import Stream, StreamDataset

Side = Sequence[Example] | Stream


@dataclass(frozen=True)
class Evaluation(Score):
    """The score of a model on a set of images, and how it errs.

    Attributes:
        ece: expected calibration error, 0 to 1; see `expected_calibration_error`.
        images_per_second: images read, preprocessed and classified per second.
        confusion: the predictions for the images of each class.
        knn: accuracy of k-nearest-neighbor classification, 0 to 1; None if it was not asked for.
    """

    ece: float
    images_per_second: float = field(compare=False)
    confusion: Confusion = field(compare=False, repr=False)
    knn: float | None = None


def evaluate(
    model: str | Path | Run | Classifier,
    data: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    skip_broken: bool = False,
    knn: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> Evaluation:
    """Evaluate a model on the test images of a data source, or on its validation images if it has no test images.

    Args:
        model: a run or its folder; or a model's name, with `weights`.
        data: None for a run's own data, or another source; all images of a folder without a split are test images.
            A run needs a source with its classes. Published weights take some or all of ImageNet's classes, as folders
            named by WordNet ids or by timm's names.
        weights: the weights of a model that is not a run; see `Classifier.open`.
        classes: the names of the model's classes; see `Classifier.open`.
        skip_broken: leave out images that cannot be read instead of raising an error. A run that was trained with
            `skip_broken` leaves them out of its own data in any case.
        knn: number of neighbors: also classify each image by the training images with the most similar pooled features
            (cosine), where each neighbor has one vote.
        batch_size: images per call of the model. Default: that of the run's training, else 64.
        workers: processes that read images; see `Inference`.
        device: device of the model; see `Inference`.

    Raises:
        BrokenImageError: images cannot be read; the message lists all of them.
        DataError: the folder is not a run, the classes differ, or there are no training images for `knn`.
        OptionError: an unknown model, no weights, or an option out of range.
        CheckpointError: the weights do not fit the model.

    Example:
        >>> from regard.training import TrainConfig, train
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         image_size=8, device="cpu"))
        >>> evaluate(run).images
        360
    """
    options = Inference(batch_size=64 if batch_size is None else batch_size, workers=workers, device=device)
    source = None if data is None else open_test_images(data)  # before weights are downloaded
    classifier = Classifier.open(model, weights, classes=classes)
    classifier.require_classes()
    run = classifier.run
    if run is not None and batch_size is None:
        options = replace(options, batch_size=run.config.recipe["batch_size"])
    if run is not None and (data is None or str(Path(data).resolve()) == run.config.data):
        data, source = run.config.data, _open_own(run)
        skip_broken = skip_broken or bool(run.config.recipe.get("skip_broken", False))
    if source is None or data is None:
        raise OptionError(f"expected data to evaluate {classifier.name} on, got none; add --data (data=...)")
    if workers is None and str(data) == DIGITS:  # they are in memory
        options = replace(options, workers=0)
    indices = classifier.find(source.classes)
    source = check_images(_select_sides(source, knn), data, skip_broken=skip_broken)
    try:
        return _evaluate(classifier.to(choose_device(device)), source, indices, knn, options)
    except BrokenImageError as error:
        suspect_all(source, data)
        raise BrokenImageError(error.images, remedy=AGAIN) from error


def _open_own(run: Run) -> Source:
    """Open the data of a run with the split of its training."""
    split = run.split()
    return open_source(
        run.config.data, split=split if split else None, split_seed=run.config.recipe.get("split_seed", 0)
    )


def _select_sides(source: Source, knn: int | None) -> Source:
    """Return a source with the images to evaluate as its test side, and training images only if neighbors need them."""
    test = source.test if len(source.test) else source.val
    if not len(test):
        raise DataError("expected test or validation images, got none; add a folder test/ or val/")
    if knn is None:
        return replace(source, train=(), val=(), test=test)
    if not 1 <= knn <= max(len(source.train), 1):
        raise OptionError(f"knn must be from 1 to the {len(source.train)} training images, got {knn}")
    if not len(source.train):
        raise DataError("expected training images for knn, got none; name a folder with train/ and val/, or digits")
    return replace(source, val=(), test=test)


def _evaluate(
    classifier: Classifier, source: Source, indices: Sequence[int], knn: int | None, options: Inference
) -> Evaluation:
    to_model = torch.tensor(indices)  # index of each class of the data in the logits
    to_data = torch.full((len(classifier.classes),), len(indices))  # the reverse; len(indices) for other classes
    to_data[to_model] = torch.arange(len(indices))
    tally, outcomes = Tally(len(classifier.classes)), []
    start = perf_counter()
    for pixels, labels in _batches(classifier, source.test, options):
        logits, targets = classifier.logits(pixels).float().cpu(), to_model[labels]
        tally.add(logits, targets, F.cross_entropy(logits, targets))
        outcomes.append((labels, logits.argmax(-1), logits.softmax(-1).amax(-1)))
    seconds = perf_counter() - start
    labels, predictions, confidences = (torch.cat(column) for column in zip(*outcomes, strict=True))
    score = tally.score(classifier.classes)
    correct = predictions == to_model[labels]
    return Evaluation(
        images=score.images,
        loss=score.loss,
        top1=score.top1,
        top5=score.top5,
        classes=tuple(each for each in score.classes if each.images),
        ece=expected_calibration_error(confidences.numpy(), correct.numpy()),
        images_per_second=score.images / seconds,
        confusion=count(labels.numpy(), to_data[predictions].numpy(), [classifier.classes[index] for index in indices]),
        knn=None if knn is None else _neighbor_accuracy(classifier, source, knn, options),
    )


def _neighbor_accuracy(classifier: Classifier, source: Source, knn: int, options: Inference) -> float:
    """Return the accuracy of k-nearest-neighbor classification of the test images among the training images."""
    neighbors = require("sklearn.neighbors", extra="train").KNeighborsClassifier(n_neighbors=knn, metric="cosine")
    neighbors.fit(*_embed(classifier, source.train, options))
    return float(neighbors.score(*_embed(classifier, source.test, options)))


def _embed(classifier: Classifier, side: Side, options: Inference) -> tuple[np.ndarray, np.ndarray]:
    """Return the features `[N, C]` and the labels `[N]` of one side of a source."""
    rows = [(classifier.features(pixels), labels.numpy()) for pixels, labels in _batches(classifier, side, options)]
    features, labels = zip(*rows, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _batches(classifier: Classifier, side: Side, options: Inference) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield preprocessed images `[B, 3, H, W]` and their labels `[B]`, or raise the error of a broken image."""
    dataset: Dataset[Any]
    workers = options.workers_for(len(side))
    if isinstance(side, Stream):
        side.prepare(options.batch_size, workers)
        dataset = StreamDataset(side, classifier.preprocessing)
    else:
        dataset = ImageDataset(side, classifier.preprocessing)
    loader = DataLoader(dataset, batch_size=options.batch_size, num_workers=workers, collate_fn=collate)
    yield from map(unpack, loader)
