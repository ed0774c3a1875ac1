"""`torch.autocast` for functions of several tensors, as PyTorch's own matrix products have it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar

import torch
from torch import Tensor

from regard.attention.checks import autocasts

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def autocasting(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function take tensors of different dtypes under autocast: all but float64 become autocast's.

    Layers return autocast's dtype there, while parameters, such as a bias, keep their own.

    Example:
        >>> add = autocasting(lambda x, y: (x.dtype, y.dtype))
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     add(torch.ones(2, dtype=torch.bfloat16), torch.ones(2))
        (torch.bfloat16, torch.bfloat16)
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if all(tensor.dtype == tensors[0].dtype for tensor in tensors):
            return function(*args, **kwargs)
        given = cast((*args, *kwargs.values()))
        named: Any = dict(zip(kwargs, given[len(args) :], strict=True))
        return function(*given[: len(args)], **named)

    return call


def cast(values: Sequence[object]) -> tuple[Any, ...]:
    """Bring floating-point tensors, but float64, to autocast's dtype where it is enabled for the first one's device."""
    first = next(value for value in values if isinstance(value, Tensor))
    if not autocasts(first):
        return tuple(values)
    dtype = torch.get_autocast_dtype(first.device.type)
    return tuple(value.to(dtype) if _follows(value) else value for value in values)


def _follows(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
