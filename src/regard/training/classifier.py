"""A model with the names of its classes and the preprocessing of its images, from a run or from a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.checkpoint import OWN, State, load_state
from regard.errors import CheckpointError, DataError, OptionError, UnsupportedError
from regard.extras import require
from regard.models import FAMILIES, MODELS, Preprocessing, create_model, load_weights
from regard.training.data import check_classes
from regard.training.imagenet import class_aliases, class_names, normalize
from regard.training.run import CONFIG, WEIGHTS, Run

PUBLISHED_BY_TIMM = "timm"
MAX_LISTED = 5  # unknown classes in a message


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model with the names of its classes and the preprocessing of its images.

    Attributes:
        name: name of the model, or folder of the run.
        weights: source of the weights.
        model: the model, in evaluation mode.
        preprocessing: turns an image into the model's input.
        classes: names of the classes, in the order of the logits; their numbers if the names are unknown.
        aliases: index of each class by the names that data may give it; empty if the names are unknown.
        run: the run, if the model is that of a run.
    """

    name: str
    weights: str
    model: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    aliases: Mapping[str, int]
    run: Run | None = None

    @classmethod
    def open(
        cls,
        model: str | Path | Run | Classifier,
        weights: str | Path | None = None,
        *,
        classes: Sequence[str] | None = None,
    ) -> Classifier:
        """Open a run, or a model with a checkpoint.

        Args:
            model: a run or its folder; or the name of a model of regard or timm, which needs `weights`.
            weights: for a model of regard, a word such as "timm" or "official", a file, a URL or a hub id, as in
                `regard.models.create_model`; for any other model of timm, "timm" or a file.
            classes: names of the classes, in the order of the logits. Default: those of the run; ImageNet's if the
                model has as many classes; else the classes are numbered.

        Raises:
            OptionError: an unknown model or word, no weights, a run with other weights, or a wrong number of names.
            DataError: the folder is not a run, or the run has no weights.
            CheckpointError: the weights cannot be downloaded or read, or do not fit the model.

        Example:
            >>> from regard.models import save_weights
            >>> file = getfixture("tmp_path") / "nat.safetensors"
            >>> save_weights(create_model("nat_nano", num_classes=3), file)
            >>> Classifier.open("nat_nano", file, classes=["cat", "dog", "owl"]).classes
            ('cat', 'dog', 'owl')
        """
        if isinstance(model, Classifier):
            return model
        if weights is None:
            return cls._from_run(_open_run(model))
        if isinstance(model, Run) or (Path(model) / CONFIG).is_file():
            raise OptionError("a run has its own weights; leave out the weights, or name a model instead of the run")
        name = str(model)
        network, preprocessing = (_from_regard if name in MODELS else _from_timm)(name, weights)
        names, aliases = _name_classes(name, int(network.num_classes), classes)  # type: ignore[arg-type]
        return cls(name, str(weights), network.eval(), preprocessing, names, aliases)

    @classmethod
    def _from_run(cls, run: Run) -> Classifier:
        config = run.config
        aliases = {name: index for index, name in enumerate(config.classes)}
        return cls(
            str(run.path),
            str(run.path / WEIGHTS),
            run.load_model(),
            config.preprocessing,
            config.classes,
            aliases,
            run,
        )

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device) -> Classifier:
        """Move the model to a device."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits `[B, classes]` of preprocessed images `[B, 3, H, W]`, on the model's device."""
        return self.model(pixels.to(self.device))

    def probabilities(self, pixels: Tensor) -> np.ndarray:
        """Return the probabilities of the classes `[B, classes]` of preprocessed images `[B, 3, H, W]`."""
        return self.logits(pixels).softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> np.ndarray:
        """Return the pooled features before the classifier `[B, C]` of preprocessed images `[B, 3, H, W]`."""
        model: Any = self.model
        features = model.forward_head(model.forward_features(pixels.to(self.device)), pre_logits=True)
        return features.float().cpu().numpy()

    def require_classes(self) -> None:
        """Check that the model has a classifier.

        Raises:
            UnsupportedError: it has none.
        """
        if not self.classes:
            raise UnsupportedError(f"expected a model with a classifier, got {self.name}, which has none; use `embed`")

    def find(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the index of each class of a data source.

        A run needs data with exactly its classes. Other models take data with some of their classes. Without names,
        the number of classes must be the same, and their alphabetical order counts, as in timm and torchvision.

        Args:
            names: the names of the classes in the data.

        Raises:
            DataError: the model lacks classes of the data, with the nearest names that it has.
        """
        if self.run is not None:
            check_classes(tuple(names), self.classes, "the data", "the run")
        if not self.aliases and len(names) == len(self.classes):
            return tuple(range(len(names)))
        if not self.aliases:
            raise DataError(
                f"expected {len(self.classes)} classes in the data, since {self.name} has as many without names, got "
                f"{len(names)}; name the model's classes with --classes FILE (classes=...)"
            )
        found = [self.aliases.get(name, self.aliases.get(normalize(name))) for name in names]
        unknown = [name for name, index in zip(names, found, strict=True) if index is None]
        if unknown:
            raise DataError(self._describe(unknown))
        indices = tuple(index for index in found if index is not None)
        repeated = [self.classes[index] for index, count in Counter(indices).items() if count > 1]
        if repeated:
            raise DataError(f"expected one folder per class, got several for {repeated[0]!r}; merge the folders")
        return indices

    def _describe(self, unknown: Sequence[str]) -> str:
        lines = []
        for name in unknown[:MAX_LISTED]:
            near = get_close_matches(normalize(name), self.aliases, n=3, cutoff=0.5)
            lines.append(f"{name!r}" + (f" (nearest: {', '.join(near)})" if near else ""))
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        return (
            f"expected in the data classes of {self.name}, got {len(unknown)} that it lacks: {', '.join(lines)}{more}; "
            "rename or remove their folders"
        )


def _open_run(model: str | Path | Run) -> Run:
    if isinstance(model, Run):
        return model
    if str(model) in MODELS and not Path(model).exists():
        words = (*MODELS[str(model)].weights, "a file")
        raise OptionError(f"expected weights of {model}, got none; add --weights (weights=...): {', '.join(words)}")
    near = [] if Path(model).exists() else get_close_matches(str(model), MODELS, n=3)
    if near:
        raise OptionError.unknown("run or model", str(model), MODELS)
    return Run.open(model)


def _from_regard(name: str, weights: str | Path) -> tuple[nn.Module, Preprocessing]:
    is_file = str(weights) not in MODELS[name].weights and Path(weights).is_file()
    (family,) = (each for each in FAMILIES if name in each.variants)
    config = MODELS[name].config
    layers = [
        source.name
        for naming in (*family.name_tensors(config), OWN)
        for layer in family.name_classifiers(config)
        for source in naming.sources(f"{layer}.weight")
    ]
    num_classes = _count_classes(load_state(weights), layers) if is_file else None
    model = create_model(name, weights=weights, num_classes=num_classes)
    return model, model.preprocessing


def _from_timm(name: str, weights: str | Path) -> tuple[nn.Module, Preprocessing]:
    timm = require("timm", extra="train")
    if not timm.is_model(name):
        raise OptionError.unknown("model", name, (*MODELS, *timm.list_models()))
    if str(weights) == PUBLISHED_BY_TIMM:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # the exceptions of the hub's client have no common base class
            raise CheckpointError(
                f"expected timm's weights of {name}, got {type(error).__name__}: {error}; check the connection, or "
                "pass a file"
            ) from error
    elif Path(weights).is_file():
        layer = timm.get_pretrained_cfg(name).classifier
        layers = [f"{each}.weight" for each in ((layer,) if isinstance(layer, str) else layer)]
        model = timm.create_model(name, num_classes=_count_classes(load_state(weights), layers))
        load_weights(model, weights)
    else:
        raise OptionError.unknown(f"weights of {name}", str(weights), (PUBLISHED_BY_TIMM, "the path of a file"))
    return model, _timm_preprocessing(model)


def _timm_preprocessing(model: nn.Module) -> Preprocessing:
    config = require("timm.data", extra="train").resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise UnsupportedError(
            f"expected a model of square RGB images, got one of {channels} x {height} x {width}; use timm's validate.py"
        )
    fields = ("crop_pct", "mean", "std", "interpolation", "crop_mode")
    return Preprocessing(height, **{field: config[field] for field in fields})


def _count_classes(state: State, layers: Sequence[str]) -> int:
    """Return the number of classes in a checkpoint whose classifier has one of these names; 0 if it has none."""
    return next((len(state[name]) for name in layers if name in state), 0)


def _name_classes(name: str, count: int, given: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    if given is not None:
        if len(given) != count or len(set(given)) != count:
            raise OptionError(
                f"expected {count} different names for the classes of {name}, got {len(given)}; check the list"
            )
        return tuple(given), {each: index for index, each in enumerate(given)}
    names = class_names(count) if count else ()
    if names is None:
        return tuple(map(str, range(count))), {}
    return names, class_aliases(count)
