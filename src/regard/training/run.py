"""The folder of a training run: config, split, weights, metrics, their plot, and checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor, nn

from regard.checkpoint import fields_to_store, save_state
from regard.errors import DataError
from regard.files import replacing
from regard.models import Preprocessing, create_model, load_weights, save_weights
from regard.training.checkpoints import FOLDER as CHECKPOINTS
from regard.training.curve import draw_curve
from regard.training.optimization import plain

CONFIG, WEIGHTS, METRICS, CURVE = "config.json", "weights.safetensors", "metrics.jsonl", "curve.png"
SPLIT, LOCK = "split.json", ".lock"
FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything needed to rebuild the model of a run and to read images for it.

    Attributes:
        model: name of the model.
        model_config: all fields of the model's configuration, so that the run stays usable if the variant changes.
        classes: names of the classes, in the order of the logits.
        preprocessing: turns an image into the model's input.
        data: the source that the model was trained on.
        recipe: the other training settings.
        overrides: the fields of the model's configuration that were given for training.
        processes: number of processes that trained it, each with the recipe's batch size.
        versions: versions of Python and of the packages that training used.
    """

    model: str
    model_config: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    recipe: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    versions: Mapping[str, str | None] = field(default_factory=dict)


class Run:
    """The folder of a run. Each file is replaced in one step, so it is complete whenever training stops.

    Args:
        path: the folder.
        config: the content of its `config.json`.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    def create(self, split: Mapping[str, Sequence[str]], *, overwrite: bool = False) -> None:
        """Create the folder, and write the config and the files of each side of the data.

        Args:
            split: of `Source.split`.
            overwrite: whether to replace an earlier run.

        Raises:
            DataError: the folder has other content than a run, holds a run and `overwrite` is False, or cannot be
                written.
        """
        self.check_room(overwrite=overwrite)
        try:
            shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
            for name in (CURVE, METRICS, WEIGHTS, SPLIT, CONFIG):  # the config is last, since it marks a run
                (self.path / name).unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / SPLIT) as file:
                file.write_text(json.dumps(split) + "\n")
            with replacing(self.path / CONFIG) as file:
                file.write_text(json.dumps({"regard_run": FORMAT, **asdict(self.config)}, indent=2) + "\n")
        except OSError as error:
            raise DataError(
                f"expected a folder that can be written, got {str(self.path)!r} ({error}); name another folder"
            ) from error

    def check_room(self, *, overwrite: bool = False) -> None:
        """Check that the folder is new or empty, or holds a run that may be replaced.

        Raises:
            DataError: it is not, or cannot be read.
        """
        try:
            if self.path.exists():
                _check_room(self.path, overwrite)
        except OSError as error:
            raise DataError(
                f"expected a folder that can be written, got {str(self.path)!r} ({error}); name another folder"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder in this context.

        Raises:
            DataError: another training writes into the folder.
        """
        lock = FileLock(str(self.path / LOCK))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DataError(
                f"expected a folder for this training alone, got {str(self.path)!r}, into which another training "
                "writes; name another folder, or stop that one"
            ) from error
        except OSError as error:
            raise DataError(
                f"expected a folder that can be written, got {str(self.path)!r} ({error}); name another folder"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run.

        Raises:
            DataError: the folder is not a run, or its config cannot be read.
        """
        path = Path(path)
        fields = _read_config(path)
        if fields is None and (path / CONFIG).is_file():
            raise DataError(
                f"expected a run's config of format {FORMAT}, got {str(path / CONFIG)!r}, which cannot be read as one; "
                "restore it, or train the run again"
            )
        if fields is None:
            found = f"which has no {CONFIG}" if path.is_dir() else "which is not a folder"
            raise DataError(f"expected the folder of a training run, got {str(path)!r}, {found}; check the name")
        try:
            fields["preprocessing"] = Preprocessing(**_with_tuples(fields["preprocessing"]))
            fields["classes"] = tuple(fields["classes"])
            fields["model_config"] = _with_tuples(fields["model_config"])
            fields["overrides"] = _with_tuples(fields.get("overrides", {}))
            for name in ("batch_size", "epochs"):  # used after training
                if not isinstance(fields["recipe"][name], int):
                    raise TypeError(f"{name} of the recipe must be a whole number")
            return cls(path, RunConfig(**fields))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"expected a run's config of format {FORMAT} in {str(path / CONFIG)!r}, got other fields ({error}); "
                "open it with the version of regard that wrote it"
            ) from error

    def save_weights(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Write the weights that `load_model` loads.

        Args:
            model: the trained model, also in peft's wrapper.
            state: its state, which a model that is divided among processes does not have itself.
        """
        if model is not plain(model):
            save_weights(plain(model), self.path / WEIGHTS)
        else:
            save_state(dict(state), self.path / WEIGHTS, fields_to_store(model))

    def save_metrics(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Write the metrics, one line per epoch."""
        with replacing(self.path / METRICS) as file:
            file.write_text("".join(json.dumps(record) + "\n" for record in metrics))

    def save_curve(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Plot the metrics."""
        with replacing(self.path / CURVE) as file:
            draw_curve(metrics, self.config.model, file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics, one entry per epoch; none if nothing was saved yet.

        Raises:
            DataError: the file is damaged.
        """
        file = self.path / METRICS
        try:
            return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected one JSON object per line in {str(file)!r}, got {error}; restore it, or train the run again"
            ) from error

    def split(self) -> dict[str, list[str]]:
        """Return the files of each side of the data, for `open_source`; empty if the source has no files.

        Raises:
            DataError: the file is damaged.
        """
        file = self.path / SPLIT
        try:
            stored: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise DataError(f"expected the split of the data in {str(file)!r}, got {error}; restore it") from error
        return stored

    def unfinished(self) -> str | None:
        """Return how far training came if it did not finish, or None if it did."""
        records = self.metrics()
        if records and records[-1]["is_last"]:
            return None
        return f"{len(records)} of {self.config.recipe['epochs']} epochs are finished"

    def load_model(self) -> nn.Module:
        """Return the model with the weights of the run, in evaluation mode.

        Raises:
            DataError: the run has no weights yet.
        """
        weights = self.path / WEIGHTS
        if not weights.is_file():
            raise DataError(f"expected weights in {str(weights)!r}, got no such file; train the run again")
        model = create_model(self.config.model, num_classes=len(self.config.classes), **self.config.model_config)
        load_weights(model, weights)
        return model.eval()


def _check_room(path: Path, overwrite: bool) -> None:
    if not path.is_dir():
        raise DataError(f"expected a folder to write the run into, got the file {str(path)!r}; name a folder")
    if all(each.name == LOCK for each in path.iterdir()):
        return
    if _read_config(path) is None:
        raise DataError(
            f"expected a new folder or an earlier run, got {str(path)!r}, which has other content; name another folder"
        )
    if not overwrite:
        raise DataError(
            f"expected a new folder, got {str(path)!r}, {_describe(path)}; replace it with --overwrite "
            "(overwrite=True), or name another folder"
        )


def _describe(path: Path) -> str:
    try:
        unfinished = Run.open(path).unfinished()
    except DataError:
        return "which holds a damaged run"
    return (
        "which holds a finished run"
        if unfinished is None
        else f"which holds an unfinished run ({unfinished}; --resume continues it)"
    )


def _read_config(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(fields, dict) or fields.pop("regard_run", None) != FORMAT:
        return None
    return fields


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists of JSON back into tuples."""
    return {name: _as_tuple(value) for name, value in fields.items()}


def _as_tuple(value: object) -> object:
    if isinstance(value, dict):
        return _with_tuples(value)
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
