"""The folder that a training run leaves: `config.json`, `weights.safetensors`, `metrics.jsonl` and `curve.png`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.errors import DataError
from regard.models import Preprocessing, create_model, load_weights, save_weights
from regard.training.curve import draw_curve

CONFIG, WEIGHTS, METRICS, CURVE = "config.json", "weights.safetensors", "metrics.jsonl", "curve.png"
FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything needed to rebuild a run's model and to read images for it.

    Attributes:
        model: the model's name.
        model_config: every field of the model's config, so that the run outlives a change of the variant.
        classes: the classes' names, in the order of the logits.
        preprocessing: from an image to the model's input.
        data: the source it was trained on.
        recipe: the other settings of the training.
        versions: of Python and the packages that took part.
    """

    model: str
    model_config: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str | None]


class Run:
    """A run's folder. Every file in it is replaced in one step, so that it is complete whenever training stops.

    Args:
        path: the folder.
        config: what its `config.json` holds.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder and write the config.

        Raises:
            DataError: the folder has content and is no run, or is one and `overwrite` is False, or cannot be written.
        """
        try:
            if self.path.exists():
                _make_room(self.path, overwrite)
            self.path.mkdir(parents=True, exist_ok=True)
            with _replacing(self.path / CONFIG) as file:
                file.write_text(json.dumps({"regard_run": FORMAT, **asdict(self.config)}, indent=2) + "\n")
        except OSError as error:
            raise DataError(
                f"expected to write the run into {str(self.path)!r}, got {error}; name another folder"
            ) from error

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run that was made before.

        Raises:
            DataError: the folder is no run, or its config cannot be read.
        """
        path = Path(path)
        fields = _read_config(path)
        if fields is None and (path / CONFIG).is_file():
            raise DataError(
                f"expected a config of format {FORMAT}, got {str(path / CONFIG)!r}, which cannot be read as one; "
                "restore it, or train the run again"
            )
        if fields is None:
            found = "a folder without" if path.is_dir() else "no folder, so no"
            raise DataError(
                f"expected the folder of a training run, got {str(path)!r}, {found} {CONFIG}; check the name"
            )
        try:
            fields["preprocessing"] = Preprocessing(**_tuples(fields["preprocessing"]))
            fields["classes"] = tuple(fields["classes"])
            fields["model_config"] = _tuples(fields["model_config"])
            if not isinstance(fields["recipe"]["batch_size"], int):  # evaluation needs it
                raise TypeError("recipe without a whole batch_size")
            return cls(path, RunConfig(**fields))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"expected a config of format {FORMAT} in {str(path / CONFIG)!r}, got other fields ({error}); "
                "open it with the version of regard that wrote it"
            ) from error

    def save(self, model: nn.Module, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Write the weights and the metrics, one line per epoch."""
        save_weights(model, self.path / WEIGHTS)
        with _replacing(self.path / METRICS) as file:
            file.write_text("".join(json.dumps(record) + "\n" for record in metrics))

    def save_curve(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Draw the metrics."""
        with _replacing(self.path / CURVE) as file:
            draw_curve(metrics, self.config.model, file)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics, one entry per epoch."""
        return [json.loads(line) for line in (self.path / METRICS).read_text().splitlines()]

    def load_model(self) -> nn.Module:
        """Rebuild the model with the run's weights, in evaluation mode.

        Raises:
            DataError: the run has no weights yet.
        """
        weights = self.path / WEIGHTS
        if not weights.is_file():
            raise DataError(f"expected weights in {str(weights)!r}, got no such file; train the run again")
        model = create_model(self.config.model, num_classes=len(self.config.classes), **self.config.model_config)
        load_weights(model, weights)
        return model.eval()


def available_device() -> torch.device:
    """Return the machine's accelerator, or the CPU where there is none."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if device is None else device


def _make_room(path: Path, overwrite: bool) -> None:
    if not path.is_dir():
        raise DataError(f"expected a folder to write the run into, got the file {str(path)!r}; name another")
    if not any(path.iterdir()):
        return
    if _read_config(path) is None:
        raise DataError(
            f"expected a new folder or an earlier run, got {str(path)!r}, which has other content; name another folder"
        )
    if not overwrite:
        raise DataError(
            f"expected a new folder, got the earlier run {str(path)!r}; name another, or replace it with --overwrite "
            "(overwrite=True)"
        )
    for name in (CURVE, METRICS, WEIGHTS, CONFIG):  # the config last: it marks the folder as a run
        (path / name).unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(fields, dict) or fields.pop("regard_run", None) != FORMAT:
        return None
    return fields


def _tuples(value: Any) -> Any:  # noqa: ANN401  # JSON has lists only
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of `path` when it is complete."""
    unfinished = path.with_name(f".{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
