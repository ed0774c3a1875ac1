"""Embed image files: write their pooled features to a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from regard.errors import BrokenImageError
from regard.extras import require
from regard.training.classifier import Classifier
from regard.training.inference import Inference, infer
from regard.training.output import writing
from regard.training.run import Run
from regard.training.selection import select_images
from regard.training.versions import version

ROW_GROUP = 4096  # rows that are in memory at a time

Row = tuple[Path, np.ndarray]


@dataclass(frozen=True)
class Embedding:
    """The result of embedding images.

    Attributes:
        file: the Parquet file.
        images: number of its rows.
        channels: length of each vector of features.
        broken: images that were left out, and why each cannot be read.
    """

    file: Path
    images: int
    channels: int
    broken: Mapping[Path, str]


def embed(
    model: str | Path | Run | Classifier,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    weights: str | Path | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    engine: str = "local",
    actors: int = 2,
) -> Embedding:
    """Write the pooled features of image files to a Parquet file.

    The file has the columns `path`, a string, and `features`, a fixed-size list of float32: the input of the model's
    classifier. The metadata of its schema hold `model`, `weights`, `preprocessing` (JSON) and the version of `regard`.
    Rows are written in groups of 4096, in the order of the images, so memory does not grow with their number. The file
    appears complete or not at all, and replaces an earlier one.

    Args:
        model: a run or its folder; or a model's name, with `weights`.
        images: files, folders, patterns, or "-" for standard input; see `select_images`. Files that cannot be read are
            left out.
        out: the Parquet file.
        weights: the weights of a model that is not a run; see `Classifier.open`.
        batch_size: images per call of the model.
        workers: processes that read images; see `Inference`.
        device: device of the model; see `Inference`.
        engine: "local", or "ray" for any number of machines.
        actors: copies of the model with Ray.

    Raises:
        BrokenImageError: no image can be read.
        DataError: the folder is not a run, a folder or a pattern has no image, or `out` cannot be written.
        OptionError: an unknown model, no weights, or an option out of range.
        CheckpointError: the weights do not fit the model.
        MissingDependencyError: pyarrow, or Ray for its engine, is not installed.

    Example:
        >>> from PIL import Image
        >>> from regard.models import create_model, save_weights
        >>> folder = getfixture("tmp_path")
        >>> save_weights(create_model("nat_nano", num_classes=3), folder / "nat.safetensors")
        >>> Image.new("L", (8, 8)).save(folder / "black.png")
        >>> result = embed("nat_nano", [folder / "*.png"], folder / "black.parquet", weights=folder / "nat.safetensors")
        >>> result.images, result.channels
        (1, 128)
    """
    options = Inference(batch_size=batch_size, workers=workers, device=device, engine=engine, actors=actors)
    require("pyarrow.parquet", extra="embed")
    files = select_images(images)
    broken: dict[Path, str] = {}
    with writing(out) as unfinished:
        classifier = Classifier.open(model, weights)
        rows = _readable(classifier, files, options, broken)
        count, channels = _write(unfinished, rows, _metadata(classifier))
        if not count:
            raise BrokenImageError(broken)
    return Embedding(Path(out), count, channels, broken)


def _readable(
    classifier: Classifier, files: Sequence[Path], options: Inference, broken: dict[Path, str]
) -> Iterator[Row]:
    """Yield the features of the images that can be read; add the others to `broken`."""
    for file, answer in zip(files, infer(classifier, files, "features", options), strict=True):
        if isinstance(answer, BrokenImageError):
            broken |= answer.images
        else:
            yield file, answer


def _write(file: Path, rows: Iterator[Row], metadata: Mapping[str, str]) -> tuple[int, int]:
    """Write rows to a Parquet file, and return their number and the length of their features."""
    pyarrow, parquet = require("pyarrow", extra="embed"), require("pyarrow.parquet", extra="embed")
    group = list(islice(rows, ROW_GROUP))
    if not group:
        return 0, 0
    count, channels = 0, len(group[0][1])
    columns = [("path", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32(), channels))]
    schema = pyarrow.schema(columns, metadata=metadata)
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:  # hardly any value comes twice
        while group:
            writer.write_table(_table(group, schema))
            count += len(group)
            group = list(islice(rows, ROW_GROUP))
    return count, channels


def _table(group: Sequence[Row], schema: object) -> object:
    """Return rows as a table of pyarrow, whose types are unknown here."""
    pyarrow = require("pyarrow", extra="embed")
    paths = [str(path).encode(errors="replace").decode() for path, _ in group]  # names that are no UTF-8
    features = np.stack([features for _, features in group])
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.ravel()), features.shape[1])
    return pyarrow.Table.from_arrays([pyarrow.array(paths), lists], schema=schema)


def _metadata(classifier: Classifier) -> dict[str, str]:
    return {
        "model": classifier.name,
        "weights": classifier.weights,
        "preprocessing": json.dumps(asdict(classifier.preprocessing)),
        "regard": str(version("regard")),
    }
