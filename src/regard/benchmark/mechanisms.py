"""All mechanisms under one protocol: time, memory and operations of a module at one size, and how they grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

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
from regard.benchmark.peers import contenders
from regard.benchmark.race import Contender, Result, race, relative_difference, tolerance
from regard.errors import OptionError, ShapeError

WINDOW = 7
GATE_SIDE = 64
"""Of the grid on which results are compared: on larger ones, references of dense attention take minutes and GB."""


class HasColumns(Protocol):
    """A size that says what a table says about it."""

    @property
    def columns(self) -> dict[str, str | int]:
        """Cells by the names of their columns."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return what tables call a dtype.

    >>> dtype_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Size:
    """The input of a module.

    Attributes:
        grid: rows and columns of the tokens.
        dim: channels.
        heads: of the mechanisms that have heads.
        batch: images.
        dtype: of the input and of all parameters.
        device: "cpu", or a GPU such as "cuda".
    """

    grid: tuple[int, int]
    dim: int
    heads: int
    batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(*self.grid, self.dim, self.heads, self.batch) < 1:
            raise ShapeError(f"sizes must be at least 1, got {self}")
        if self.dim % self.heads:
            raise ShapeError(f"dim must be divisible by heads, got dim={self.dim} and heads={self.heads}")

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return math.prod(self.grid)

    @property
    def columns(self) -> dict[str, str | int]:
        """What a table says about a size."""
        rows, columns = self.grid
        return {
            "grid": f"{rows}x{columns}",
            "tokens": self.tokens,
            "dim": self.dim,
            "heads": self.heads,
            "batch": self.batch,
            "dtype": dtype_name(self.dtype),
            "device": self.device,
        }

    def place(self, build: Callable[[Size], nn.Module]) -> tuple[nn.Module, Tensor]:
        """Return a module of this size in evaluation mode, and an input of random numbers, `[B, H, W, C]`."""
        x = torch.randn(self.batch, *self.grid, self.dim, dtype=self.dtype, device=self.device)
        return build(self).to(x).eval(), x

    def __str__(self) -> str:
        heads = "1 head" if self.heads == 1 else f"{self.heads} heads"
        return f"({self.batch}, {self.grid[0]}x{self.grid[1]}, {self.dim}), {heads}"


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
    """One implementation of a mechanism at one size.

    Attributes:
        mechanism: its name.
        size: of the input; its `columns` say what it is in tables.
        result: what the implementation needed.
        flops: of a forward pass, in matrix products.
        traffic: bytes that any implementation moves: input, output and parameters.
    """

    mechanism: str
    size: HasColumns
    result: Result
    flops: int
    traffic: int


def measure(
    size: Size,
    names: Sequence[str] | None = None,
    *,
    peers: Sequence[str] = (),
    seconds: float = 1.0,
    training: bool = True,
    report: Callable[[str], object] = lambda line: None,
) -> Iterator[Measurement]:
    """Measure the mechanisms at one size, one after another.

    Args:
        size: of the input.
        names: of mechanisms; None measures all.
        peers: of `PEERS`, which are measured in turn with ours.
        seconds: roughly, per implementation and pass.
        training: whether forward and backward are measured, too.
        report: is told which peers are left out, and why.

    Raises:
        OptionError: an unknown mechanism or peer.
        ArithmeticError: a fused result differs from the reference.

    Example:
        >>> [one] = measure(Size((7, 7), 16, 2), ["window"], seconds=0.01)
        >>> one.mechanism, one.flops, one.result.library
        ('window', 254016, 'regard')
    """
    for subject in select(names):
        ours, x, flops, traffic = _prepare(subject, size)
        others, left_out = contenders(subject.name, ours.module, x, peers)
        for line in left_out:
            report(line)
        for result in race([ours.contender("regard"), *others], seconds, training=training, device=size.device):
            yield Measurement(subject.name, size, result, flops, traffic)


def measure_together(size: Size, *, seconds: float = 1.0) -> list[Measurement]:
    """Measure all mechanisms at one size in turn, so that a machine that slows down does not change their order.

    Args:
        size: of the input.
        seconds: roughly, per mechanism and pass.

    Example:
        >>> [one.mechanism for one in measure_together(Size((7, 7), 16, 2), seconds=0.001)][:2]
        ['softmax', 'talking_heads']
    """
    prepared = {subject.name: _prepare(subject, size) for subject in SUBJECTS}
    racing = [ours.contender(name) for name, (ours, *_) in prepared.items()]
    results = race(racing, seconds, training=True, device=size.device, compares=False)
    return [
        Measurement(name, size, replace(result, library="regard"), flops, traffic)
        for (name, (_, _, flops, traffic)), result in zip(prepared.items(), results, strict=True)
    ]


@dataclass(frozen=True)
class _Ours:
    """A module of regard and its input, whose gradient is computed in training."""

    module: nn.Module
    leaf: Tensor

    def contender(self, name: str) -> Contender:
        return Contender(name, partial(self.module, self.leaf), [self.leaf, *self.module.parameters()])


def _prepare(subject: Subject, size: Size) -> tuple[_Ours, Tensor, int, int]:
    """Return a module that computes what its reference does, its input, its FLOPs and the bytes that it must move."""
    module, x = size.place(subject.build)
    _gate(module, x[:1, :GATE_SIDE, :GATE_SIDE], subject.name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    traffic = 2 * x.nbytes + sum(parameter.nbytes for parameter in module.parameters())
    return _Ours(module, x.clone().requires_grad_()), x, counter.get_total_flops(), traffic


def select(names: Sequence[str] | None) -> list[Subject]:
    """Return the mechanisms with these names, or all."""
    known = {subject.name: subject for subject in SUBJECTS}
    for name in () if names is None else names:
        if name not in known:
            raise OptionError.unknown("mechanism", name, known)
    return [subject for subject in SUBJECTS if names is None or subject.name in names]


def _gate(module: nn.Module, x: Tensor, name: str) -> None:
    """Compare the fused result with the reference before anything is timed."""
    with torch.no_grad():
        fused = module(x)
        set_backend(module, "reference")
        difference = relative_difference(fused, module(x))
        set_backend(module, None)
    if not difference <= tolerance(x.dtype):
        raise ArithmeticError(f"{name}: the fused result differs from the reference by {difference:.1e}")


def _fitting(size: Size) -> tuple[int, int]:
    """Return the window, no larger than the grid."""
    return min(WINDOW, size.grid[0]), min(WINDOW, size.grid[1])


def _shift(size: Size) -> tuple[int, ...]:
    return tuple(length // 2 if length < whole else 0 for length, whole in zip(_fitting(size), size.grid, strict=True))


def _patch(size: Size) -> int:
    return 1 if size.grid[0] % 2 or size.grid[1] % 2 else 2
