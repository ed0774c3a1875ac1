"""FLOP formulas of the fused operators for torch's `FlopCounterMode`, and handles for fvcore.

The counter's module imports Triton, which takes longer than importing all of regard. So the formulas are registered
when the program imports that module. PyTorch itself has no formula for its attention on CPUs, and counts it as 0.
"""

from __future__ import annotations

import importlib.util
import math
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
        if operator not in counter.flop_registry:  # PyTorch may have learned to count its own
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


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object) -> int:
    """Count the two products of PyTorch's attention, `[B, nh, N, hd]`, or `[B, nh, M, hd]` and `[B, nh, M, hd_v]`."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object
) -> int:
    """Count five products: the logits again, and the gradients of weights, value, query and key."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


register_flops(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _attention)
register_flops(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, _attention_backward)


def fvcore_handles() -> dict[str, Callable[[Sequence[torch._C.Value], Sequence[torch._C.Value]], int]]:
    """Return the handles with which fvcore counts a model like torch's `FlopCounterMode`.

    fvcore counts a multiplication and an addition as one operation, so its figures are half of torch's. It runs
    `torch.jit.trace`, for which regard's functions compute their definitions: the products of a definition are counted,
    and no kernel has to be known. These handles add what fvcore counts as 0 (PyTorch's attention) or cannot count (a
    matrix times a vector, in SwiftFormer), and leave out what torch does not count: norms, pooling, interpolation.
    fvcore itself is not imported.

    Example: `FlopCountAnalysis(model, images).set_op_handle(**fvcore_handles()).total()`
        >>> [name for name in fvcore_handles() if "norm" not in name][:2]
        ['aten::matmul', 'aten::scaled_dot_product_attention']
    """
    return {
        "aten::matmul": lambda inputs, outputs: math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1],
        "aten::scaled_dot_product_attention": lambda inputs, _: _attention(*map(_shape, inputs[:3])) // 2,
        **dict.fromkeys(UNCOUNTED, lambda *_: 0),  # fvcore keeps its own handle if it gets None
    }


UNCOUNTED = (
    *("aten::batch_norm", "aten::group_norm", "aten::layer_norm", "aten::instance_norm"),
    *("aten::adaptive_avg_pool2d", "aten::grid_sampler", "aten::upsample_bilinear2d", "aten::upsample_nearest2d"),
)
"""Operators that fvcore counts and torch does not."""


def _shape(value: torch._C.Value) -> list[int]:
    sizes: list[int] = value.type().sizes()  # type: ignore[attr-defined]  # of a tensor's type
    return sizes


if COUNTER not in sys.modules:
    sys.meta_path.insert(0, _WhenImported())
