"""Conversion between namings, in both directions, with every tensor accounted for.

Loading looks up the sources of each of the model's tensors. A tensor that is missing, left over, of another shape or
not finite is an error, and the model stays as it was.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from regard.checkpoint.files import State, shorten
from regard.checkpoint.naming import OWN, Naming, Source, declarations
from regard.errors import CheckpointError, OptionError

LIBRARIES = ("regard", "timm")  # a warning names the line that called these


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint.

    Attributes:
        source: the file, URL, hub id or state dict.
        naming: the naming of the checkpoint's tensors.
        tensors: number of the model's tensors that were filled.
        resized: names of the model's tensors that were converted from another input size or number of channels.
        kept: names of the model's tensors that kept their values, such as those of a new classifier.
        ignored: names of the checkpoint's tensors that follow from the configuration and were not needed.
        same_names: further namings that give this model's tensors the same names and shapes.
    """

    source: str
    naming: str
    tensors: int
    resized: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    same_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write the report in one line."""
        parts = [f"{self.tensors} tensors from {self.source} in the naming of {join((self.naming, *self.same_names))}"]
        parts += [
            f"{len(names)} {what}: {shorten(names)}"
            for what, names in (("resized", self.resized), ("kept", self.kept), ("ignored", self.ignored))
            if names
        ]
        return "; ".join(parts)


def load_state_into(
    model: nn.Module,
    state: State,
    where: str = "the state dict",
    *,
    keep: Collection[str] = (),
    namings: Sequence[Naming] | None = None,
) -> LoadReport:
    """Fill a model from the tensors of a checkpoint in any of its namings; see `convert_state`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> print(load_state_into(model, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}))
        2 tensors from the state dict in the naming of regard
    """
    model = unwrap_model(model)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise CheckpointError("the model is on the meta device and cannot hold values; call model.to_empty() before")
    own, report = convert_state(model, state, where, keep=keep, namings=namings)
    model.load_state_dict(own)
    return report


def convert_state(
    model: nn.Module,
    state: State,
    where: str = "the state dict",
    *,
    keep: Collection[str] = (),
    namings: Sequence[Naming] | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return the state dict of a model, made of the tensors of a checkpoint in any of its namings.

    Dense layers that the checkpoint stores as 1x1 convolutions, and factors that it stores as `[C, 1, 1]`, are
    flattened. Values are converted to the model's dtype. Tensors of another size go through the model's `resized`.

    Args:
        model: any module; a `Convertible` one declares its namings.
        state: the checkpoint's tensors by name.
        where: the name of the checkpoint in error messages.
        keep: names of the model's tensors that keep their values, whether the checkpoint has them or not.
        namings: the result of `detect_namings`; None detects them.

    Raises:
        CheckpointError: tensors that are missing, left over, of another shape or kind, without values, or not finite in
            the model's dtype.
    """
    naming, *same = detect_namings(state, model) if namings is None else namings
    warn_of_requirements(naming.requires, model, f"{where} is in the naming of {naming.name}, whose weights were")
    own = model.state_dict()
    targets = {name: tensor for name, tensor in own.items() if name not in keep}
    sources = {name: naming.sources(name) for name in (*own, *keep)}
    ignored = tuple(name for name in state if naming.ignores(name))
    refuse = partial(_refuse, state=state, model=model, naming=naming, where=where)
    refuse(_presence(state, sources, targets, ignored))
    resize = declarations(model).resized
    filled, resized = {}, []
    for name, target in targets.items():
        tensor = _joined(state, sources[name], target)
        has_other_size = tensor.shape != target.shape and tensor.ndim == target.ndim and tensor.numel() > 0
        fitted = resize(name, tensor) if has_other_size else None
        resized += [] if fitted is None else [name]
        filled[name] = tensor if fitted is None else fitted
    refuse(
        {
            "of another shape": [
                f"{name} (expected {list(targets[name].shape)}, got {list(tensor.shape)})"
                for name, tensor in filled.items()
                if tensor.shape != targets[name].shape
            ],
            "not finite in the model's dtype": [
                name
                for name, tensor in filled.items()
                if tensor.shape == targets[name].shape and not tensor.isfinite().all()
            ],
        }
    )
    kept = {name: tensor for name, tensor in own.items() if name in keep}
    names = tuple(each.name for each in same)
    return filled | kept, LoadReport(where, naming.name, len(filled), tuple(resized), tuple(kept), ignored, names)


def export_state(model: nn.Module, naming: str = OWN.name) -> dict[str, Tensor]:
    """Return a model's tensors in a naming.

    Raises:
        OptionError: a naming that the model does not have.
        CheckpointError: a model whose outputs would differ in the code that uses this naming.
    """
    model = unwrap_model(model)
    known = {each.name: each for each in (OWN, *declarations(model).namings)}
    if naming not in known:
        raise OptionError.unknown(f"naming of {type(model).__name__}", naming, known)
    return rename_tensors(model, known[naming])


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of `torch.compile` and of torch's data-parallel training."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def fields_to_store(model: nn.Module) -> dict[str, Any]:
    """Return the fields of a model's configuration that the names and shapes of its tensors do not show."""
    declared = declarations(unwrap_model(model))
    return {field: getattr(declared.config, field) for naming in declared.namings for field in naming.requires}


def rename_tensors(model: nn.Module, naming: Naming) -> dict[str, Tensor]:
    """Return a model's tensors in a naming; see `export_state`."""
    config = declarations(model).config
    for field, value in naming.requires.items():
        if getattr(config, field) != value:
            raise CheckpointError(
                f"networks in the naming of {naming.name} compute {field}={value!r}, this model computes "
                f"{getattr(config, field)!r} and would give other results there; write another naming"
            )
    parts: list[tuple[Source, Tensor]] = []
    for name, tensor in model.state_dict().items():
        sources = naming.sources(name)
        tensor = tensor[..., None, None] if naming.is_pointwise(name) else tensor
        parts += zip(sources, tensor.chunk(len(sources)) if len(sources) > 1 else [tensor], strict=True)
    parts.sort(key=lambda part: (part[0].name, part[0].row or 0))
    state = {}
    for name, group in groupby(parts, key=lambda part: part[0].name):
        rows = list(group)
        state[name] = torch.stack([row for _, row in rows]) if rows[0][0].row is not None else rows[0][1]
    return state | naming.extras(model)


def detect_namings(state: Mapping[str, Any], model: nn.Module) -> tuple[Naming, ...]:
    """Return the model's namings in which most of its tensors are found in a checkpoint.

    There are several where they give the model's tensors the same names and shapes, such as those of ViT.
    """
    targets = model.state_dict()
    namings = (OWN, *declarations(model).namings)
    scores = [_score(naming, state, targets) for naming in namings]
    best = namings[scores.index(max(scores))]
    return best, *(
        naming
        for naming, score in zip(namings, scores, strict=True)
        if naming is not best and score == max(scores) and _has_same_names(naming, best, targets)
    )


def warn_of_requirements(required: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Warn if a model's configuration differs from the one that weights were trained with."""
    config = declarations(model).config
    for field, value in required.items():
        actual = getattr(config, field, value)
        if actual != value:
            _warn_caller(f"{what} trained with {field}={value!r}; the model has {actual!r} and will give other results")


def join(names: Sequence[str]) -> str:
    """Write names as a list in a sentence.

    Example:
        >>> join(["regard", "official", "timm"])
        'regard, official and timm'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _warn_caller(message: str) -> None:
    """Warn at the line of the user's code that called this package, whatever lies between."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _score(naming: Naming, state: Mapping[str, Any], targets: State) -> tuple[int, int]:
    """Count the tensors found in a checkpoint, and among them those with the number of axes of this naming."""
    found, alike = sum(map(naming.ignores, state)), 0
    for name, target in targets.items():
        for source in naming.sources(name):
            found += source.name in state
            axes = target.ndim + (2 if naming.is_pointwise(name) else 0) + (source.row is not None)
            alike += getattr(state.get(source.name), "ndim", -1) == axes
    return found, alike


def _has_same_names(naming: Naming, other: Naming, targets: State) -> bool:
    return all(
        naming.sources(name) == other.sources(name)
        and (target.ndim == 0 or naming.is_pointwise(name) == other.is_pointwise(name))
        for name, target in targets.items()
    )


def _presence(
    state: State, sources: Mapping[str, tuple[Source, ...]], targets: State, ignored: Collection[str]
) -> dict[str, list[str]]:
    """List the tensors that cannot be found or used, by problem."""
    accepted = {source.name for parts in sources.values() for source in parts} | set(ignored)
    used = dict.fromkeys(source.name for name in targets for source in sources[name])
    return {
        "missing": [name for name in used if name not in state],
        "left over": [name for name in state if name not in accepted],
        "without values, on the meta device": [name for name, tensor in state.items() if tensor.is_meta],
        "not of floating-point numbers": [
            f"{source.name} (expected {target.dtype}, got {state[source.name].dtype})"
            for name, target in targets.items()
            for source in sources[name]
            if source.name in state and target.is_floating_point() and not state[source.name].is_floating_point()
        ],
    }


def _refuse(problems: Mapping[str, list[str]], *, state: State, model: nn.Module, naming: Naming, where: str) -> None:
    listed = "".join(f"\n  - {len(names)} {what}: {shorten(names)}" for what, names in problems.items() if names)
    if listed:
        raise CheckpointError(
            f"{where} does not fit this {type(model).__name__} in the naming of {naming.name}:{listed}\n"
            f"It holds {len(state)} tensors: {shorten(state)}. "
            "Build the model that the checkpoint was saved from: the same variant, num_classes and in_chans; "
            "load_weights(..., new_classifier=True) leaves the classifier as it is"
        )


def _joined(state: State, sources: tuple[Source, ...], target: Tensor) -> Tensor:
    """Stack the sources, flatten trailing axes of size 1 that the target does not have, and take its dtype."""
    tensors = [state[source.name] for source in sources]
    parts = [
        tensor if source.row is None else tensor[source.row : source.row + 1].squeeze(0)
        for source, tensor in zip(sources, tensors, strict=True)
    ]
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    joined = joined.to(target.dtype) if target.is_floating_point() else joined
    ones = (1,) * (joined.ndim - target.ndim)
    return joined.reshape(target.shape) if joined.shape == target.shape + ones else joined
