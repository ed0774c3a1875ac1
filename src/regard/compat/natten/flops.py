"""`natten.flops`: multiplications counted with fvcore."""

from __future__ import annotations

from importlib import import_module
from typing import TypeVar

from torch import nn

from regard.errors import MissingDependencyError

Counter = TypeVar("Counter")

__all__ = ["add_natten_handle", "get_flops"]


def add_natten_handle(flop_ctr: Counter) -> Counter:
    """Return fvcore's counter as it is: it traces, and in a trace our attention is products that it knows.

    Example:
        >>> add_natten_handle("a counter")
        'a counter'
    """
    return flop_ctr


def get_flops(model: nn.Module, input: object, disable_warnings: bool = False) -> int:
    """Count the multiplications of a model, as fvcore does.

    Args:
        model: any module.
        input: a tensor, or a tuple of arguments.
        disable_warnings: whether fvcore keeps silent about operators that it does not count.

    Raises:
        MissingDependencyError: fvcore is not installed.
    """
    try:
        fvcore = import_module("fvcore.nn")
    except ImportError as error:
        raise MissingDependencyError(
            f"get_flops needs the package 'fvcore' ({error}); install it with: pip install fvcore"
        ) from error
    analysis = fvcore.FlopCountAnalysis(model, input)
    if disable_warnings:
        analysis = analysis.unsupported_ops_warnings(False)
    return int(analysis.total())
