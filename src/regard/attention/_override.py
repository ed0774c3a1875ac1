"""PyTorch's protocol for functions that others may observe or replace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def overridable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let `__torch_function__` see the calls of a function, as it sees those of PyTorch's own.

    A `torch.overrides.TorchFunctionMode`, or the class of an argument, may observe a call or replace it.

    Example: a mode that counts.
        >>> from torch.overrides import TorchFunctionMode
        >>> class Count(TorchFunctionMode):
        ...     calls = 0
        ...     def __torch_function__(self, function, types, args=(), kwargs=None):
        ...         self.calls += 1
        ...         return function(*args, **({} if kwargs is None else kwargs))
        >>> double = overridable(lambda x: 2 * x)
        >>> with Count() as count:
        ...     double(1)
        2
        >>> count.calls
        1
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        everything = (*args, *kwargs.values())
        if has_torch_function(everything):
            result: Result = handle_torch_function(call, everything, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call
