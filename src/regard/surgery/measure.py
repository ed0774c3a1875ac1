"""Deciding by measurement whether a module runs as before or on its replacement."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.surgery import timing
from regard.surgery.compare import Arguments, clone, floating_tensors
from regard.surgery.timing import Times

SECONDS = 0.03
"""For one group of equal modules."""


@dataclass(frozen=True)
class Choice:
    """A module that can run as one of two classes, with the same weights.

    Attributes:
        path: its name in the model.
        module: the module.
        original: the class with the upstream forward.
        ours: the class that replaces it.
        kind: what the calibration calls this replacement.
    """

    path: str
    module: nn.Module
    original: type[nn.Module]
    ours: type[nn.Module]
    kind: str

    def take(self, is_ours: bool) -> None:
        """Make the module run as one of its classes."""
        self.module.__class__ = self.ours if is_ours else self.original


def run(module: nn.Module, call: Arguments, is_training: bool) -> None:
    """Call a module as it will be used: forward, and in training also backward. No gradient is stored."""
    args, kwargs = call
    with torch.set_grad_enabled(is_training):
        outputs = [one for one in floating_tensors(module(*args, **kwargs)) if one.requires_grad]
    if is_training and outputs:
        wanted = [one for one in (*floating_tensors(call), *module.parameters()) if one.requires_grad]
        torch.autograd.grad(outputs, wanted, [torch.ones_like(one) for one in outputs], allow_unused=True)


def decide(model: nn.Module, choices: Sequence[Choice], call: Arguments, is_training: bool = False) -> dict[str, Times]:
    """Give every module its faster class, on the input that it receives in the model.

    Modules of one class, configuration and input shape are measured once.

    Args:
        model: contains the modules.
        choices: in the order of `model.modules()`. A module inside another one is decided first.
        call: the model's input.
        is_training: whether to measure forward and backward.

    Returns:
        The times by path. Modules that the model did not reach are missing, and do not change.
    """
    signatures, calls = _record(model, choices, call, is_training)
    measured: dict[Hashable, Times] = {}
    times = {}
    for choice in reversed(choices):
        key = signatures.get(choice.path)
        if key is None:
            continue
        if key not in measured:
            measured[key] = _compare(choice, calls[key], is_training)
        times[choice.path] = measured[key]
        choice.take(measured[key].is_faster)
    return times


def _compare(choice: Choice, call: Arguments, is_training: bool) -> Times:
    def run_as(is_ours: bool) -> Callable[[], None]:
        def run_module() -> None:
            choice.take(is_ours)
            run(choice.module, call, is_training)

        return run_module

    (times,) = timing.race((run_as(False), run_as(True)), SECONDS)
    return times


def _record(
    model: nn.Module, choices: Sequence[Choice], call: Arguments, is_training: bool
) -> tuple[dict[str, Hashable], dict[Hashable, Arguments]]:
    """Run the model, and return the signature of the first call of each module, and one call for each signature."""
    signatures: dict[str, Hashable] = {}
    calls: dict[Hashable, Arguments] = {}

    def hook(choice: Choice) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if choice.path not in signatures:
                key = (choice.ours, choice.original, _configuration(module), _describe((args, kwargs)))
                signatures[choice.path] = key
                if key not in calls:
                    calls[key] = cast(Arguments, clone((args, kwargs)))
                    for tensor in floating_tensors(calls[key]):
                        tensor.requires_grad_(is_training)

        return record

    handles = [one.module.register_forward_pre_hook(hook(one), with_kwargs=True) for one in choices]
    try:
        run(model, call, is_training)
    finally:
        for handle in handles:
            handle.remove()
    return signatures, calls


def _configuration(module: nn.Module) -> Hashable:
    """Return what tells modules of one class apart: options and shapes, no weights and no probabilities."""
    return tuple(
        (
            name,
            type(part),
            tuple((key, value) for key, value in vars(part).items() if _is_option(key, value)),
            tuple((key, tuple(weight.shape)) for key, weight in part.named_parameters(recurse=False)),
        )
        for name, part in module.named_modules()
    )


def _is_option(key: str, value: object) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return not key.startswith("_") and all(isinstance(one, (int, str)) for one in values)


def _describe(value: object) -> Hashable:
    """Return the shapes, strides and dtypes of the tensors of a call, and its other simple arguments."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, Mapping):
        return tuple((key, _describe(each)) for key, each in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(_describe, value))
    return value if isinstance(value, (int, float, str)) else type(value).__qualname__
