"""Checkpoints: read and written safely, and converted totally.

A naming maps every tensor of our model to the tensors of somebody's checkpoint that it is made of. Loading goes through
our tensors, looks the others up and accounts for every one of them: what is missing, left over, misshapen or not finite
is an error, and the model stays as it was.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard.errors import CheckpointError

State = Mapping[str, Tensor]

WRAPPERS = ("model", "state_dict")
SUFFIXES = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Naming:
    """How a group of checkpoints names its tensors.

    Attributes:
        name: whose naming it is.
        sources: gives, for the name of one of our tensors, the names of theirs that it is made of: one, or several that
            are stacked along the first axis.
    """

    name: str
    sources: Callable[[str], tuple[str, ...]]


OWN = Naming("regard", lambda name: (name,))


def load_weights(model: nn.Module, source: str | Path | State) -> None:
    """Load a checkpoint into a model, whoever named its tensors.

    The naming is recognised by the tensors' names. Dense layers that the checkpoint stores as 1x1 convolutions, and
    factors that it stores as `[C, 1, 1]`, are flattened. Values are converted to the model's dtype.

    Args:
        model: any module; `model.namings`, where there is one, lists what it accepts besides its own naming.
        source: a file, see `load_state`, or a state dict.

    Raises:
        CheckpointError: a file that cannot be read; tensors that are missing, left over, misshapen, of another kind,
            without values, or not finite in the model's dtype. The model is then as it was.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> load_weights(model, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        >>> model(torch.tensor([3.0, 4.0])).item()
        7.0
    """
    state = unwrap(source) if isinstance(source, Mapping) else load_state(source)
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise CheckpointError("the model is on the meta device and cannot hold values; call model.to_empty() before")
    model.load_state_dict(convert(state, model, detect_naming(state, model), where))


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's tensors to a .safetensors file, in our naming; the file appears complete or not at all.

    Raises:
        CheckpointError: another suffix, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"weights are written as .safetensors, got {path}; change the suffix")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(state, partial, metadata={"format": "pt"})
        partial.replace(path)
    except Exception as error:  # the writer's own errors and the system's alike
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}; choose a folder that exists and has room") from error


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file onto the CPU, without running any code that it may carry.

    Args:
        path: .safetensors, or a .pth, .pt or .bin of plain tensors; wrappers around the state dict and the prefix
            `module.` of distributed training are taken off.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or one without a state dict.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *SUFFIXES):
        raise CheckpointError(f"expected a .safetensors, .pth, .pt or .bin file, got {path}")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            return unwrap(load_file(path), str(path))
        with torch.serialization.safe_globals([Namespace]):  # training scripts store their arguments beside the weights
            return unwrap(torch.load(path, map_location="cpu", weights_only=True), str(path))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file fails in whatever way its bytes decide
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: {error}; fetch it again, or save its state dict alone"
        ) from error


def unwrap(loaded: Any, where: str = "the state dict") -> dict[str, Tensor]:  # noqa: ANN401
    """Take the state dict out of what a training script saved, and `module.` off its names."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{where} should map names to tensors, got {type(loaded).__name__}")
    others = [name for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(
            f"{where} should map names to tensors, or hold such a mapping as 'model' or 'state_dict', "
            f"but these are something else: {_some(others)}"
        )
    if all(name.startswith("module.") for name in loaded):
        return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def detect_naming(state: State, model: nn.Module) -> Naming:
    """Find the naming, of those that the model accepts, in which most of its tensors are there."""

    def found(naming: Naming) -> int:
        return sum(source in state for name in model.state_dict() for source in naming.sources(name))

    return max((OWN, *getattr(model, "namings", ())), key=found)


def convert(state: State, model: nn.Module, naming: Naming, where: str = "the state dict") -> dict[str, Tensor]:
    """Build the state dict of `model` from a checkpoint in the given naming, using every tensor of it.

    Raises:
        CheckpointError: tensors that are missing, left over, misshapen, of another kind, without values, or not finite.
    """
    targets = model.state_dict()
    sources = {name: naming.sources(name) for name in targets}
    used = dict.fromkeys(source for names in sources.values() for source in names)
    problems = {
        "missing": [name for name in used if name not in state],
        "left over": [name for name in state if name not in used],
        "without values, on the meta device": [name for name, tensor in state.items() if tensor.is_meta],
        "not of floating-point numbers": [
            f"{source} (expected {target.dtype}, got {state[source].dtype})"
            for name, target in targets.items()
            for source in sources[name]
            if source in state and target.is_floating_point() and not state[source].is_floating_point()
        ],
    }
    if not any(problems.values()):
        converted = {name: _joined([state[source] for source in sources[name]], targets[name]) for name in targets}
        problems = {
            "of another shape": [
                f"{name} (expected {list(targets[name].shape)}, got {list(tensor.shape)})"
                for name, tensor in converted.items()
                if tensor.shape != targets[name].shape
            ],
            "not finite in the model's dtype": [
                name for name, tensor in converted.items() if not tensor.isfinite().all()
            ],
        }
        if not any(problems.values()):
            return converted
    listed = "".join(f"\n  - {len(names)} {what}: {_some(names)}" for what, names in problems.items() if names)
    raise CheckpointError(
        f"{where} does not fit this {type(model).__name__} in the naming of {naming.name}:{listed}\n"
        f"It holds {len(state)} tensors: {_some(state)}. "
        "Build the model as the checkpoint's was: the same variant, num_classes and in_chans"
    )


def _joined(parts: list[Tensor], target: Tensor) -> Tensor:
    """Stack the parts, flatten trailing axes of size 1 that the target does not have, and take its floating dtype."""
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    joined = joined.to(target.dtype) if target.is_floating_point() else joined
    ones = (1,) * (joined.ndim - target.ndim)
    return joined.reshape(target.shape) if joined.shape == target.shape + ones else joined


def _some(names: Iterable[object], count: int = 4) -> str:
    """Write the first few names."""
    listed = list(map(str, names))
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
