"""Checkpoint files: read without running their code, written completely or not at all."""

from __future__ import annotations

import json
import zipfile
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
FIELDS = "regard"  # key in the metadata of a .safetensors file: fields of the configuration
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLES)
ZIP = b"PK\x03\x04"  # a file of torch since 1.6 starts so


def load_state(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file onto the CPU, without running any code that it may hold.

    The checksums in files of `torch.save` are verified, except in the format that torch wrote before version 1.6, which
    has none. This reads the file once more: 0.25 s for 400 MB.

    Args:
        path: .safetensors, or a .pth, .pt or .bin of plain tensors, which may be wrapped; see `unwrap`.
        ema: whether to take the averaged weights of a training script's file.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or one without a state dict.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"expected one of the suffixes {', '.join(SUFFIXES)}, got {path}; check the name")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} cannot be read: it is empty (0 bytes); download it again")
    try:
        if path.suffix.lower() == ".safetensors":
            return unwrap(load_file(path), str(path), ema=ema)
        _verify_checksums(path)
        with torch.serialization.safe_globals([Namespace]):  # training scripts store their arguments beside the weights
            state = unwrap(torch.load(path, map_location="cpu", weights_only=True), str(path), ema=ema)
        _refuse_expanded(state, path)
    except CheckpointError:
        raise
    except UnpicklingError:  # torch's text recommends running the code
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: it is damaged, or holds objects whose code would have to run; "
            "download it again, or save its state dict alone"
        ) from None
    except Exception as error:  # the bytes of a damaged file decide which exception
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}: {error}); download it again, or save its "
            "state dict alone"
        ) from error
    return state


def load_fields(path: str | Path) -> dict[str, Any]:
    """Read the fields of a configuration that `save_state` stored in a .safetensors file; other files have none.

    Raises:
        CheckpointError: metadata that `save_state` did not write.
    """
    if Path(path).suffix.lower() != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(FIELDS, "{}")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or thousands of brackets
        fields = None
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"the metadata {FIELDS!r} of {path} must be a JSON object of configuration fields, got {text[:80]!r}; save "
            "the file again with save_weights, or without metadata"
        )
    return fields


def save_state(state: State, path: str | Path, fields: Mapping[str, Any] | None = None) -> None:
    """Write tensors to a file in the format of its suffix; it appears complete or not at all.

    Args:
        state: the tensors by name.
        path: .safetensors, or a suffix of `torch.save`'s files: .pth, .pt, .bin, .ckpt, .tar.
        fields: fields of the model's configuration, stored in the metadata of a .safetensors file.

    Raises:
        CheckpointError: another suffix, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"weights are written as {', '.join(SUFFIXES)}, got {path}; change the suffix")
    plain = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # safetensors writes files that only their owner may read
        if path.suffix.lower() == ".safetensors":
            stored = {FIELDS: json.dumps(fields)} if fields else {}
            save_file(plain, partial, metadata={"format": "pt"} | stored)
        else:
            torch.save(plain, partial)
        partial.chmod(mode)
        partial.replace(path)
    except Exception as error:  # both the writer's exceptions and the operating system's
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}; choose a folder that exists and has room") from error


def unwrap(loaded: object, where: str = "the state dict", *, ema: bool = False) -> dict[str, Tensor]:
    """Return the state dict in what a training script saved, without the prefixes of wrapped models.

    Args:
        loaded: a state dict, or a mapping that holds one as `model`, `state_dict` or `module`, or averaged weights as
            `model_ema`, `state_dict_ema` or `ema`.
        where: the name of the checkpoint in error messages.
        ema: whether to take the averaged weights. By default they are taken only where there are no others.

    Raises:
        CheckpointError: no state dict, or no averaged weights.
    """
    if ema and not (isinstance(loaded, Mapping) and any(isinstance(loaded.get(key), Mapping) for key in AVERAGED)):
        raise CheckpointError(f"{where} holds no averaged weights ({', '.join(AVERAGED)}); pass ema=False")
    for key in (*AVERAGED, *WRAPPERS) if ema else (*WRAPPERS, *AVERAGED):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(
            f"{where} must map names to tensors, got {'an empty ' if loaded == {} else ''}{type(loaded).__name__}; "
            "save model.state_dict()"
        )
    others = [name for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(
            f"{where} must map names to tensors, or hold such a mapping as 'model' or 'state_dict', "
            f"but these values are not tensors: {shorten(others)}; save model.state_dict()"
        )
    state = {name: tensor for name, tensor in loaded.items() if name not in COUNTERS}
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def shorten(names: Iterable[object], count: int = 4) -> str:
    """Write the first `count` names, and the number of the others."""
    listed = list(map(str, names))
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")


def _verify_checksums(path: Path) -> None:
    """Check the CRC-32 of every record of a file of `torch.save`."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
    with zipfile.ZipFile(path) as archive:
        if not any(record.CRC for record in archive.infolist()):  # torch.serialization.set_crc32_options(False)
            return
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged} in it has another checksum; download or save it again")


def _refuse_expanded(state: State, path: Path) -> None:
    """Refuse a view that repeats the elements of its storage until it is larger than the whole file."""
    size = path.stat().st_size
    for name, tensor in state.items():
        needed = tensor.numel() * tensor.element_size()
        if not tensor.is_meta and needed > max(size, tensor.untyped_storage().nbytes()):
            raise CheckpointError(
                f"{name} in {path} must not be larger than the file, got {list(tensor.shape)}, an expanded view of "
                f"{needed} bytes in a file of {size}; save tensors that are contiguous"
            )
