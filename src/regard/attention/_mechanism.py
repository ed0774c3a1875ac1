"""What a mechanism is, and how a call of it finds its implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.errors import OptionError, UnsupportedError

Backend = Literal["fused", "reference"] | None
"""None takes the fused kernel where one can serve, else the reference; the two words insist."""


@dataclass(frozen=True)
class Sample:
    """One call of a mechanism, as data: the tests, the benchmark and `regard check` draw their inputs from it.

    Attributes:
        name: what is special about the call.
        shapes: the shape of every differentiable tensor argument, by argument name.
        options: the remaining arguments.
        scales: factors on the standard normal values of some tensors, 1 where absent.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)

    def tensors(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> dict[str, Tensor]:
        """Draw the tensor arguments; the same seed gives the same values, rounded to `dtype`."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64) * self.scales.get(name, 1.0)
            for name, shape in self.shapes.items()
        }
        return {name: tensor.to(device=device, dtype=dtype) for name, tensor in drawn.items()}


@dataclass(frozen=True)
class Mechanism:
    """One attention mathematics and everything that implements it.

    Attributes:
        name: the folder's name.
        function: the public function.
        weights: returns the attention weights of the same arguments.
        unsupported_reasons: takes the function's arguments; says why they have no fused kernel, empty if they have.
        modules: the `nn.Module`s around the function.
        samples: calls that the contract tests run.
        origin: the models it comes from.
        paper: arXiv number.
        summary: what each query sees, in a few words.
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    weights: Callable[..., Tensor | tuple[Tensor, ...]]
    unsupported_reasons: Callable[..., list[str]]
    modules: tuple[type[nn.Module], ...]
    samples: tuple[Sample, ...]
    origin: str
    paper: str
    summary: str


def choose_backend(backend: Backend, reasons: Sequence[str]) -> Literal["fused", "reference"]:
    """Choose the implementation of one call.

    Args:
        backend: the caller's word.
        reasons: why the call has no fused kernel; empty if it has one.

    Raises:
        UnsupportedError: `"fused"` was asked for and there are reasons against it.
        OptionError: the word is none of the two.
    """
    if backend == "fused" and reasons:
        raise UnsupportedError("no fused kernel for this call:\n  - " + "\n  - ".join(reasons))
    if backend is None:
        return "reference" if reasons else "fused"
    if backend not in ("fused", "reference"):
        raise OptionError.unknown("backend", backend, ("fused", "reference"))
    return backend
