"""Models on the meta device: names and shapes without memory, and without drawing initial values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules on the meta device, without the functions that draw their initial values.

    These have no effect there, but the first of them imports torch's compiler and sympy, which takes several seconds.
    """
    with torch.device("meta"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    """Replace the random constructors by `torch.empty`, and skip the in-place operations of `torch.nn.init`."""

    constructors = (torch.randn, torch.rand)
    skipped = (
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_),
        *(Tensor.mul_, Tensor.add_, Tensor.fill_, Tensor.zero_),
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func in self.skipped and args[0].is_meta:
            return args[0]
        return (torch.empty if func in self.constructors else func)(*args, **(kwargs or {}))
