"""Conversion between namings: total, in both directions.

Loading goes through our tensors, looks up what they are made of and accounts for every tensor of theirs: what is
missing, left over, misshapen or not finite is an error, and the model stays as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from regard.checkpoint.files import State, some
from regard.checkpoint.naming import OWN, Naming, Source
from regard.errors import CheckpointError, OptionError


@dataclass(frozen=True)
class LoadReport:
    """What loading a checkpoint did.

    Attributes:
        source: the file, URL, hub id or state dict.
        naming: whose names its tensors had.
        tensors: how many of the model's tensors it filled.
        resized: names of the model's tensors that were carried over from another input size or number of channels.
        kept: names of the model's tensors that kept their values, such as a new classifier's.
        ignored: names of their tensors that follow from the configuration, and were not needed.
    """

    source: str
    naming: str
    tensors: int
    resized: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it in one line."""
        parts = [f"{self.tensors} tensors from {self.source} in the naming of {self.naming}"]
        parts += [
            f"{len(names)} {what}: {some(names)}"
            for what, names in (("resized", self.resized), ("kept", self.kept), ("ignored", self.ignored))
            if names
        ]
        return "; ".join(parts)


def load_state_into(
    model: nn.Module, state: State, where: str = "the state dict", *, keep: Collection[str] = ()
) -> LoadReport:
    """Fill a model from the tensors of a checkpoint, whoever named them; see `converted`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> print(load_state_into(model, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}))
        2 tensors from the state dict in the naming of regard
    """
    model = bare(model)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise CheckpointError("the model is on the meta device and cannot hold values; call model.to_empty() before")
    own, report = converted(model, state, where, keep=keep)
    model.load_state_dict(own)
    return report


def converted(
    model: nn.Module, state: State, where: str = "the state dict", *, keep: Collection[str] = ()
) -> tuple[dict[str, Tensor], LoadReport]:
    """Build the state dict of a model from the tensors of a checkpoint, whoever named them.

    The naming is recognized by the tensors' names. Dense layers that the checkpoint stores as 1x1 convolutions, and
    factors that it stores as `[C, 1, 1]`, are flattened. Values are converted to the model's dtype. Tensors of another
    size are offered to the model's `resized(name, tensor)`, where it has that method.

    Args:
        model: any module; `model.namings`, where there is one, lists what it accepts besides its own naming.
        state: their tensors by name.
        where: what error messages call them.
        keep: names of the model's tensors that keep their values, whether the checkpoint has them or not.

    Raises:
        CheckpointError: tensors that are missing, left over, misshapen, of another kind, without values, or not finite
            in the model's dtype.
    """
    naming = detect_naming(state, model)
    warn_of(naming.requires, model, f"{where} is in the naming of {naming.name}, whose weights were")
    own = model.state_dict()
    targets = {name: tensor for name, tensor in own.items() if name not in keep}
    sources = {name: naming.sources(name) for name in (*own, *keep)}
    ignored = tuple(name for name in state if naming.ignores(name))
    refuse = partial(_refuse, state=state, model=model, naming=naming, where=where)
    refuse(_presence(state, sources, targets, ignored))
    resize: Callable[[str, Tensor], Tensor | None] = getattr(model, "resized", lambda name, tensor: None)
    filled, resized = {}, []
    for name, target in targets.items():
        tensor = _joined(state, sources[name], target)
        other = tensor.shape != target.shape and tensor.ndim == target.ndim and tensor.numel() > 0
        fitted = resize(name, tensor) if other else None
        resized += [] if fitted is None else [name]
        filled[name] = tensor if fitted is None else fitted
    refuse(
        {
            "of another shape": [
                f"{name} (expected {list(targets[name].shape)}, got {list(tensor.shape)})"
                for name, tensor in filled.items()
                if tensor.shape != targets[name].shape
            ],
            "not finite in the model's dtype": [name for name, tensor in filled.items() if not tensor.isfinite().all()],
        }
    )
    kept = {name: tensor for name, tensor in own.items() if name in keep}
    return filled | kept, LoadReport(where, naming.name, len(filled), tuple(resized), tuple(kept), ignored)


def state_in(model: nn.Module, naming: str = OWN.name) -> dict[str, Tensor]:
    """Return a model's tensors as another naming has them.

    Raises:
        OptionError: a naming that the model does not have.
        CheckpointError: a model that would compute something else there.
    """
    model = bare(model)
    known = {each.name: each for each in (OWN, *getattr(model, "namings", ()))}
    if naming not in known:
        raise OptionError.unknown(f"naming of {type(model).__name__}", naming, known)
    return in_naming(model, known[naming])


def bare(model: nn.Module) -> nn.Module:
    """Take off what `torch.compile` and torch's data-parallel wrappers put around a model."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def fields_to_keep(model: nn.Module) -> dict[str, Any]:
    """Return the fields of a model's configuration that its tensors' names and shapes do not tell."""
    namings = getattr(bare(model), "namings", ())
    return {field: getattr(bare(model).config, field) for naming in namings for field in naming.requires}


def in_naming(model: nn.Module, naming: Naming) -> dict[str, Tensor]:
    """Return a model's tensors in a naming."""
    config = getattr(model, "config", None)
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


def detect_naming(state: Mapping[str, Any], model: nn.Module) -> Naming:
    """Find the naming, of those that the model accepts, in which most of its tensors are there."""
    targets = model.state_dict()
    ignored = {naming.name: sum(map(naming.ignores, state)) for naming in getattr(model, "namings", ())}

    def found(naming: Naming) -> tuple[int, int]:
        """Count the tensors that are there, and among them those with as many axes as this naming gives them."""
        there, alike = ignored.get(naming.name, 0), 0
        for name, target in targets.items():
            for source in naming.sources(name):
                there += source.name in state
                axes = target.ndim + (2 if naming.is_pointwise(name) else 0) + (source.row is not None)
                alike += getattr(state.get(source.name), "ndim", -1) == axes
        return there, alike

    return max((OWN, *getattr(model, "namings", ())), key=found)


def warn_of(required: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Warn if a model's configuration is not the one that weights were trained with."""
    for field, value in required.items():
        has = getattr(getattr(model, "config", None), field, value)
        if has != value:
            warnings.warn(
                f"{what} trained with {field}={value!r}; the model has {has!r} and will give other results",
                stacklevel=6,
            )


def _presence(
    state: State, sources: Mapping[str, tuple[Source, ...]], targets: State, ignored: Collection[str]
) -> dict[str, list[str]]:
    """List what keeps tensors from being found and used, by problem."""
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
    listed = "".join(f"\n  - {len(names)} {what}: {some(names)}" for what, names in problems.items() if names)
    if listed:
        raise CheckpointError(
            f"{where} does not fit this {type(model).__name__} in the naming of {naming.name}:{listed}\n"
            f"It holds {len(state)} tensors: {some(state)}. "
            "Build the model as the checkpoint's was: the same variant, num_classes and in_chans; "
            "load_weights(..., new_classifier=True) leaves the classifier as it is"
        )


def _joined(state: State, sources: tuple[Source, ...], target: Tensor) -> Tensor:
    """Stack the parts, flatten trailing axes of size 1 that the target does not have, and take its floating dtype."""
    tensors = [state[source.name] for source in sources]
    parts = [
        tensor if source.row is None else tensor[source.row : source.row + 1].squeeze(0)
        for source, tensor in zip(sources, tensors, strict=True)
    ]
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    joined = joined.to(target.dtype) if target.is_floating_point() else joined
    ones = (1,) * (joined.ndim - target.ndim)
    return joined.reshape(target.shape) if joined.shape == target.shape + ones else joined
