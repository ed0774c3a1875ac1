"""All mechanisms under one protocol: time, memory and operations of a module at one size, and how they grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import (
    AdditiveAttention,
    Attention,
    EfficientAdditiveAttention,
    NeighborhoodAttention2d,
    SeparableAttention,
    TalkingHeadsAttention,
    WindowAttention,
    set_backend,
)
from regard.benchmark.memory import peak_memory
from regard.errors import OptionError, ShapeError
from regard.timing import Times, time_in_turn

WINDOW = 7
TOLERANCE = 1e-3
"""Of the gate: the largest difference between fused and reference, relative to the largest output."""


@dataclass(frozen=True)
class Size:
    """The input of a module.

    Attributes:
        grid: rows and columns of the tokens.
        dim: channels.
        heads: of the mechanisms that have heads.
        batch: images.
    """

    grid: tuple[int, int]
    dim: int
    heads: int
    batch: int = 1

    def __post_init__(self) -> None:
        if min(*self.grid, self.dim, self.heads, self.batch) < 1:
            raise ShapeError(f"sizes must be at least 1, got {self}")
        if self.dim % self.heads:
            raise ShapeError(f"dim must be divisible by heads, got dim={self.dim} and heads={self.heads}")

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return math.prod(self.grid)

    def __str__(self) -> str:
        return f"({self.batch}, {self.grid[0]}x{self.grid[1]}, {self.dim}), {self.heads} heads"


@dataclass(frozen=True)
class Subject:
    """A mechanism as a module.

    Attributes:
        name: the mechanism's.
        build: makes the module for a size.
        sees: what a token sees in one layer.
        grows: how the cost grows with the N tokens.
    """

    name: str
    build: Callable[[Size], nn.Module]
    sees: str
    grows: str


SUBJECTS: tuple[Subject, ...] = (
    Subject("softmax", lambda size: Attention(size.dim, size.heads), "all tokens", "N²"),
    Subject("talking_heads", lambda size: TalkingHeadsAttention(size.dim, size.heads), "all tokens, heads mixed", "N²"),
    Subject(
        "window",
        lambda size: WindowAttention(size.dim, size.heads, _fitting(size), shift_size=_shift(size)),
        f"the {WINDOW} x {WINDOW} tokens of its window",
        "N",
    ),
    Subject(
        "neighborhood",
        lambda size: NeighborhoodAttention2d(size.dim, size.heads, _fitting(size)),
        f"the {WINDOW} x {WINDOW} tokens around it",
        "N",
    ),
    Subject("additive", lambda size: AdditiveAttention(size.dim, size.heads), "one context of all tokens", "N"),
    Subject(
        "efficient_additive",
        lambda size: EfficientAdditiveAttention(size.dim, size.dim),
        "one context of all tokens",
        "N",
    ),
    Subject(
        "separable",
        lambda size: SeparableAttention(size.dim, patch_size=_patch(size)),
        "one context of the tokens at its place in the patches",
        "N",
    ),
)
"""In the order of the docs."""


@dataclass(frozen=True)
class Measurement:
    """One module at one size.

    Attributes:
        mechanism: its name.
        size: of the input.
        forward: times without gradients.
        training: times of forward and backward; None if not measured.
        flops: of a forward pass, in matrix products.
        traffic: bytes that any implementation moves: input, output and parameters.
        memory: bytes that a forward pass adds at its peak; None where the system does not tell.
        memory_training: the same of forward and backward.
        difference: of the fused output from the reference's, relative to the largest.
    """

    mechanism: str
    size: Size
    forward: Times
    training: Times | None
    flops: int
    traffic: int
    memory: int | None
    memory_training: int | None
    difference: float


def measure(
    size: Size, names: Sequence[str] | None = None, *, seconds: float = 1.0, training: bool = True
) -> Iterator[Measurement]:
    """Measure the mechanisms at one size, one after another.

    Args:
        size: of the input.
        names: of mechanisms; None measures all.
        seconds: roughly, per mechanism and pass.
        training: whether forward and backward are measured, too.

    Raises:
        OptionError: an unknown mechanism.
        ArithmeticError: a fused result differs from the reference.

    Example:
        >>> [one] = measure(Size((7, 7), 16, 2), ["window"], seconds=0.01)
        >>> one.mechanism, one.flops
        ('window', 254016)
    """
    for subject in select(names):
        module = subject.build(size).eval()
        x = torch.randn(size.batch, *size.grid, size.dim)
        difference = _gate(module, x, subject.name)
        leaf = x.clone().requires_grad_()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        forward, both = _forward(module, x), _both(module, leaf)
        yield Measurement(
            subject.name,
            size,
            time_in_turn({"": forward}, seconds)[""],
            time_in_turn({"": both}, seconds)[""] if training else None,
            counter.get_total_flops(),
            4 * (2 * x.numel() + sum(parameter.numel() for parameter in module.parameters())),
            peak_memory(forward),
            peak_memory(both) if training else None,
            difference,
        )


def select(names: Sequence[str] | None) -> list[Subject]:
    """Return the mechanisms with these names, or all."""
    known = {subject.name: subject for subject in SUBJECTS}
    for name in () if names is None else names:
        if name not in known:
            raise OptionError.unknown("mechanism", name, known)
    return [subject for subject in SUBJECTS if names is None or subject.name in names]


def exponent(measurements: Sequence[Measurement]) -> float:
    """Fit the exponent of the growth of a mechanism's time with the tokens: the slope in double logarithms.

    The small half of the sizes is left out where there are more than three, since calls cost time of their own.

    Example: twice the tokens take four times as long.
        >>> def at(tokens, seconds):
        ...     return Measurement("x", Size((1, tokens), 1, 1), Times((seconds,)), None, 0, 0, None, None, 0.0)
        >>> exponent([at(10, 1.0), at(20, 4.0), at(40, 16.0)])
        2.0
    """
    ordered = sorted(measurements, key=lambda one: one.size.tokens)
    used = ordered[len(ordered) // 2 - 1 :] if len(ordered) > 3 else ordered
    if len(used) < 2:
        raise OptionError(f"expected at least two sizes to fit an exponent, got {len(used)}")
    xs = [math.log(one.size.tokens) for one in used]
    ys = [math.log(one.forward.median) for one in used]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return round(covariance / sum((x - x_mean) ** 2 for x in xs), 6)


def _gate(module: nn.Module, x: Tensor, name: str) -> float:
    """Compare the fused result with the reference before anything is timed."""
    with torch.no_grad():
        fused = module(x)
        set_backend(module, "reference")
        expected = module(x)
        set_backend(module, None)
    difference = float((fused - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise ArithmeticError(f"{name}: the fused result differs from the reference by {difference:.1e}")
    return difference


def _forward(module: nn.Module, x: Tensor) -> Callable[[], object]:
    def forward() -> None:
        with torch.no_grad():
            module(x)

    return forward


def _both(module: nn.Module, x: Tensor) -> Callable[[], object]:
    weight = torch.randn_like(x)

    def both() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        (module(x) * weight).sum().backward()

    return both


def _fitting(size: Size) -> tuple[int, int]:
    """Return the window, no larger than the grid."""
    return min(WINDOW, size.grid[0]), min(WINDOW, size.grid[1])


def _shift(size: Size) -> tuple[int, ...]:
    return tuple(length // 2 if length < whole else 0 for length, whole in zip(_fitting(size), size.grid, strict=True))


def _patch(size: Size) -> int:
    return 1 if size.grid[0] % 2 or size.grid[1] % 2 else 2
