"""The registry's types: a mechanism, its operator, its modules, and sample calls for the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.attention._backend import BackendModule
from regard.attention._operator import Operator


@dataclass(frozen=True)
class Sample:
    """One call of a mechanism, as data: the tests, the benchmark and `regard check` draw their inputs from it.

    Attributes:
        name: the property that distinguishes the call.
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
class ModuleSample:
    """One small module of a mechanism, as data.

    Attributes:
        module: the class.
        arguments: its arguments, the input's channels first.
        shape: of an input.
    """

    module: type[BackendModule]
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]

    def build(self) -> BackendModule:
        """Build the module with random parameters."""
        return self.module(**self.arguments)


@dataclass(frozen=True)
class Mechanism:
    """One attention mathematics and everything that implements it.

    Attributes:
        name: the folder's name.
        function: the public function.
        weights: returns the attention weights for the same arguments.
        prepare: takes the function's arguments but `backend`; returns them checked, in the order of the reference,
            and the reasons why no kernel serves them.
        operator: the operator of its kernels; None where PyTorch's own serve.
        module_samples: the `nn.Module`s around the function, with sizes for the tests.
        samples: calls for the tests.
        origin: the models that introduced it.
        paper: arXiv number.
        summary: what each query sees, in a few words.
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    weights: Callable[..., Tensor | tuple[Tensor, ...]]
    prepare: Callable[..., tuple[tuple[Any, ...], list[str]]]
    operator: Operator[Any] | None
    module_samples: tuple[ModuleSample, ...]
    samples: tuple[Sample, ...]
    origin: str
    paper: str
    summary: str

    @property
    def modules(self) -> tuple[type[BackendModule], ...]:
        """The `nn.Module`s around the function."""
        return tuple(dict.fromkeys(sample.module for sample in self.module_samples))

    def unsupported_reasons(self, *arguments: object, **options: object) -> list[str]:
        """Return the reasons why the function has no fused kernel for these arguments; empty if it has one."""
        return self.prepare(*arguments, **options)[1]
