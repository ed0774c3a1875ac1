"""FLOP formulas of the fused operators for torch's `FlopCounterMode`.

The counter's module imports Triton, which takes longer than importing all of regard. So the formulas are registered
when the program imports that module.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

COUNTER = "torch.utils.flop_counter"
_waiting: list[tuple[torch._ops.OpOverloadPacket, Callable[..., int]]] = []


def register_flops(operator: torch._ops.OpOverloadPacket, formula: Callable[..., int]) -> None:
    """Register the formula of an operator: from its inputs, shapes in place of tensors, to FLOPs."""
    _waiting.append((operator, lambda *shapes, **_: formula(*shapes)))
    if COUNTER in sys.modules:
        _register_waiting(sys.modules[COUNTER])


def _register_waiting(counter: ModuleType) -> None:
    while _waiting:
        operator, formula = _waiting.pop()
        counter.register_flop_formula(operator)(formula)


class _WhenImported(MetaPathFinder):
    """Leave finding the counter's module to the other finders; register the formulas after it has been executed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # so that the other finders are asked
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_waiting(module)
                sys.meta_path.remove(self)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if COUNTER not in sys.modules:
    sys.meta_path.insert(0, _WhenImported())
