"""Compile a model ahead of time, for one set of input shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from regard.dense import constant_weights
from regard.errors import UnsupportedError
from regard.surgery.compare import evaluation_mode

Program = Callable[..., object]
"""Takes a model's arguments, in the shapes of the example, and returns the model's outputs."""

OPTIONS: Mapping[str, Any] = {"freezing": True}
"""Options of TorchInductor. Freezing turns the weights into constants, which it folds and packs for oneDNN."""


def compile_ahead(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Compile a model with AOTInductor and load the result, in which only regard's operators call Python.

    Args:
        model: in evaluation mode. Its weights are copied into the result.
        args: example of the positional arguments. Their shapes, strides and other values become constants.
        kwargs: example of the arguments by name.

    Raises:
        UnsupportedError: a call changes buffers or arguments of the model.
        Exception: whatever `torch.export`, TorchInductor, the C++ compiler or the file system raise.
    """
    import torch._inductor  # takes longer to import than all of regard

    with torch.no_grad(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # about the workings of the compiler
        _check_pure(model, args, kwargs)
        with constant_weights(model):
            program = torch.export.export(model, args, dict(kwargs))
        path = str(Path(folder) / "model.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=dict(OPTIONS))
        return _caller(torch._inductor.aoti_load_package(path))


def _check_pure(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Check that a call changes nothing, since the constants of a program cannot change."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    leaves = pytree.tree_leaves((args, kwargs))
    inputs = {f"argument {place}": leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    with evaluation_mode(model):  # restores buffers
        before = {name: (tensor, tensor._version) for name, tensor in {**inputs, **dict(model.named_buffers())}.items()}
        model(*args, **kwargs)
        after = {**inputs, **dict(model.named_buffers())}
        changed = [name for name, (old, version) in before.items() if after[name] is not old or old._version != version]
    if changed:
        raise UnsupportedError(
            f"expected a model whose calls change no buffers and no arguments, got one that changes "
            f"{', '.join(changed)}; pass compile=False"
        )


def _caller(compiled: Any) -> Program:  # noqa: ANN401  # torch has no public type for it
    """Return a function that calls a loaded program without parsing its call format each time."""
    loader = compiled.loader
    outputs = pytree.treespec_loads(loader.get_call_spec()[1])

    def call(*args: object, **kwargs: object) -> object:
        leaves = pytree.tree_leaves((args, kwargs))
        return pytree.tree_unflatten(loader.boxed_run([leaf for leaf in leaves if isinstance(leaf, Tensor)]), outputs)

    return call
