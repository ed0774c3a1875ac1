"""How many operations a fused operator does, told to torch's `FlopCounterMode` once somebody imports it.

Its module imports Triton, which takes longer than importing all of regard: the formulas wait for it instead.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

Formula = TypeVar("Formula", bound=Callable[..., int])

COUNTER = "torch.utils.flop_counter"
_waiting: list[tuple[Any, Callable[..., int]]] = []


def flop_formula(operator: Any) -> Callable[[Formula], Formula]:  # noqa: ANN401
    """Register the decorated formula for an operator: from its inputs' shapes to the operations of its mathematics."""

    def register(formula: Formula) -> Formula:
        _waiting.append((operator, formula))
        if COUNTER in sys.modules:
            _register_waiting(sys.modules[COUNTER])
        return formula

    return register


def _register_waiting(counter: ModuleType) -> None:
    while _waiting:
        operator, formula = _waiting.pop()
        counter.register_flop_formula(operator)(formula)


class _WhenImported(MetaPathFinder):
    """Lets the others find the counter's module, and registers what waits when it has been executed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # while the others look
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
