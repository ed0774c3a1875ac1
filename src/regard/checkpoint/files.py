"""Checkpoint files: read without running their code, written completely or not at all."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from regard.errors import CheckpointError

State = Mapping[str, Tensor]

WRAPPERS = ("model", "state_dict", "module")
AVERAGED = ("model_ema", "state_dict_ema", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils
FIELDS = "regard"  # of a .safetensors file's metadata: fields of the configuration
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLES)


def load_state(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file onto the CPU, without running any code that it may carry.

    Args:
        path: .safetensors, or a .pth, .pt or .bin of plain tensors, which may be wrapped; see `unwrap`.
        ema: whether to take the averaged weights of a training script's file.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or one without a state dict.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"expected a .safetensors, .pth, .pt, .bin, .ckpt or .tar file, got {path}")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        if path.suffix.lower() == ".safetensors":
            return unwrap(load_file(path), str(path), ema=ema)
        with torch.serialization.safe_globals([Namespace]):  # training scripts store their arguments beside the weights
            return unwrap(torch.load(path, map_location="cpu", weights_only=True), str(path), ema=ema)
    except CheckpointError:
        raise
    except UnpicklingError as error:  # torch's text recommends to run the code
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: it is damaged, or holds objects whose code would have to run; "
            "fetch it again, or save its state dict alone"
        ) from error
    except Exception as error:  # a damaged file fails in whatever way its bytes decide
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: {error}; fetch it again, or save its state dict alone"
        ) from error


def load_fields(path: str | Path) -> dict[str, Any]:
    """Read the fields of a configuration that `save_state` kept in a .safetensors file; none elsewhere."""
    if Path(path).suffix.lower() != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get(FIELDS, "{}"))


def save_state(state: State, path: str | Path, fields: Mapping[str, Any] | None = None) -> None:
    """Write tensors to a file, whose suffix says how; it appears complete or not at all.

    Args:
        state: the tensors by name.
        path: .safetensors, .pth, .pt or .bin.
        fields: of the model's configuration, kept in the metadata of a .safetensors file.

    Raises:
        CheckpointError: another suffix, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"weights are written as .safetensors, .pth, .pt or .bin, got {path}; change the suffix")
    plain = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # safetensors writes files that nobody but their owner may read
        if path.suffix == ".safetensors":
            kept = {FIELDS: json.dumps(fields)} if fields else {}
            save_file(plain, partial, metadata={"format": "pt"} | kept)
        else:
            torch.save(plain, partial)
        partial.chmod(mode)
        partial.replace(path)
    except Exception as error:  # the writer's own errors and the system's alike
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}; choose a folder that exists and has room") from error


def unwrap(loaded: Any, where: str = "the state dict", *, ema: bool = False) -> dict[str, Tensor]:  # noqa: ANN401
    """Take the state dict out of what a training script saved, and the prefixes of wrapped models off its names.

    Args:
        loaded: a state dict, or a mapping that holds one as `model`, `state_dict` or `module`, or averaged over
            training as `model_ema`, `state_dict_ema` or `ema`.
        where: what error messages call it.
        ema: whether to take the averaged one, which is else taken only where there is no other.
    """
    if ema and not (isinstance(loaded, Mapping) and any(isinstance(loaded.get(key), Mapping) for key in AVERAGED)):
        raise CheckpointError(f"{where} holds no averaged weights ({', '.join(AVERAGED)}); pass ema=False")
    for key in (*AVERAGED, *WRAPPERS) if ema else (*WRAPPERS, *AVERAGED):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{where} should map names to tensors, got {type(loaded).__name__}")
    others = [name for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(
            f"{where} should map names to tensors, or hold such a mapping as 'model' or 'state_dict', "
            f"but these are something else: {some(others)}"
        )
    state = {name: tensor for name, tensor in loaded.items() if name not in COUNTERS}
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def some(names: Iterable[object], count: int = 4) -> str:
    """Write the first few names."""
    listed = list(map(str, names))
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
