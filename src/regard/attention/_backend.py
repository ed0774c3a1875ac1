"""The backend of a call, of a module, and of a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from regard.errors import OptionError, UnsupportedError

Backend = Literal["fused", "reference"] | None
"""None uses the fused kernel if it supports the call, else the reference; the two words insist."""


def choose_backend(backend: Backend, reasons: Sequence[str]) -> Literal["fused", "reference"]:
    """Choose the implementation of one call.

    Args:
        backend: the caller's choice.
        reasons: why the call has no fused kernel; empty if it has one.

    Raises:
        UnsupportedError: `backend` is "fused" and there are reasons against it.
        OptionError: `backend` is another word.
    """
    if backend == "fused" and reasons:
        raise UnsupportedError("no fused kernel for this call:\n  - " + "\n  - ".join(reasons))
    if backend is None:
        return "reference" if reasons else "fused"
    if backend not in ("fused", "reference"):
        raise OptionError.unknown("backend", backend, ("fused", "reference"))
    return backend


class BackendModule(nn.Module):
    """Base class of the modules that compute attention: they have a backend, which `set_backend` changes.

    Args:
        backend: None uses fused kernels where they serve, else the reference; "fused" and "reference" insist.
    """

    backend: Backend = None

    def __init__(self, backend: Backend = None) -> None:
        super().__init__()
        choose_backend(backend, ())  # checks the word
        self.backend = backend


def set_backend(model: nn.Module, backend: Backend) -> None:
    """Set the backend of every attention module in `model`.

    Args:
        model: any module; every `BackendModule` in it is set: regard's own and those that `fuse` serves.
        backend: None uses fused kernels where they serve, else the reference; "fused" and "reference" insist.

    Raises:
        OptionError: `backend` is another word.

    Example:
        >>> from regard.attention import NeighborhoodAttention1d
        >>> model = nn.Sequential(NeighborhoodAttention1d(8, num_heads=2, kernel_size=3))
        >>> set_backend(model, "reference")
        >>> model[0].backend
        'reference'
    """
    choose_backend(backend, ())  # checks the word
    for module in model.modules():
        if isinstance(module, BackendModule):
            module.backend = backend
