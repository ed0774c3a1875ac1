"""The fused operators alone, without projections, against references and other implementations of the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import (
    additive_attention,
    efficient_additive_attention,
    neighborhood_attention,
    separable_attention,
    softmax_attention,
    talking_heads_attention,
    window_attention,
)
from regard.benchmark.flex import attend_neighborhoods
from regard.benchmark.mechanisms import Measurement, dtype_name
from regard.benchmark.race import Contender, race
from regard.errors import OptionError

REFERENCE_BYTES = 2**30
"""References that store more weights than this are not measured."""
Function = Callable[..., Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kernel:
    """A call of an operator.

    Attributes:
        mechanism: its name.
        function: of the mechanism.
        shapes: of its tensors, by the names of arguments.
        options: its other arguments.
        weights: values that its reference stores, of attention weights.
    """

    mechanism: str
    function: Function
    shapes: Shapes
    options: dict[str, object]
    weights: int

    def __str__(self) -> str:
        first = next(iter(self.shapes.values()))
        words = [f"{name} {_by(value)}" for name, value in self.options.items()]
        return ", ".join(["x".join(map(str, first)), *words, *(["bias"] if "bias" in self.shapes else [])])


@dataclass(frozen=True)
class Run:
    """Where and in which dtype a kernel runs, as a size for tables."""

    kernel: str
    dtype: torch.dtype
    device: str

    @property
    def columns(self) -> dict[str, str | int]:
        """Cells by the names of their columns."""
        return {"shape": self.kernel, "dtype": dtype_name(self.dtype), "device": self.device}


def neighborhood(
    batch: int,
    grid: tuple[int, ...],
    heads: int,
    head_dim: int,
    kernel: tuple[int, ...],
    *,
    bias: bool = False,
    dilation: int = 1,
) -> Kernel:
    """Return a call of neighborhood attention, `[B, *grid, nh, hd]`."""
    shapes: Shapes = dict.fromkeys(("query", "key", "value"), (batch, *grid, heads, head_dim))
    if bias:
        shapes["bias"] = (heads, *(2 * size - 1 for size in kernel))
    options: dict[str, object] = {"kernel_size": kernel} | ({"dilation": dilation} if dilation > 1 else {})
    weights = batch * math.prod(grid) * heads * math.prod(kernel) * head_dim  # gathered keys, too
    return Kernel("neighborhood", neighborhood_attention, shapes, options, weights)


def window(batch: int, grid: tuple[int, int], heads: int, head_dim: int, side: int, shift: int) -> Kernel:
    """Return a call of window attention with its bias, `[B, H, W, nh, hd]`."""
    shapes: Shapes = dict.fromkeys(("query", "key", "value"), (batch, *grid, heads, head_dim))
    shapes["bias"] = (heads, 2 * side - 1, 2 * side - 1)
    options: dict[str, object] = {"window_size": (side, side), "shift_size": (shift, shift)}
    return Kernel("window", window_attention, shapes, options, batch * math.prod(grid) * heads * side**2)


def softmax(batch: int, tokens: int, heads: int, head_dim: int) -> Kernel:
    """Return a call of softmax attention, `[B, N, nh, hd]`."""
    shapes: Shapes = dict.fromkeys(("query", "key", "value"), (batch, tokens, heads, head_dim))
    return Kernel("softmax", softmax_attention, shapes, {}, batch * heads * tokens**2)


def talking_heads(batch: int, tokens: int, heads: int, head_dim: int) -> Kernel:
    """Return a call of talking-heads attention, `[B, N, nh, hd]`."""
    shapes: Shapes = dict.fromkeys(("query", "key", "value"), (batch, tokens, heads, head_dim))
    shapes |= dict.fromkeys(("logits_mix", "weights_mix"), (heads, heads))
    return Kernel("talking_heads", talking_heads_attention, shapes, {}, 2 * batch * heads * tokens**2)


def additive(batch: int, tokens: int, heads: int, head_dim: int) -> Kernel:
    """Return a call of additive attention, `[B, N, nh, hd]`."""
    shapes: Shapes = dict.fromkeys(("query", "key"), (batch, tokens, heads, head_dim))
    shapes |= dict.fromkeys(("query_weight", "key_weight"), (heads, heads * head_dim))
    return Kernel("additive", additive_attention, shapes, {}, batch * tokens * heads)


def efficient_additive(batch: int, tokens: int, channels: int) -> Kernel:
    """Return a call of efficient additive attention, `[B, N, C]`."""
    shapes: Shapes = dict.fromkeys(("query", "key"), (batch, tokens, channels))
    shapes["weight"] = (channels,)
    return Kernel("efficient_additive", _first(efficient_additive_attention), shapes, {}, batch * tokens)


def separable(batch: int, grid: tuple[int, int], channels: int) -> Kernel:
    """Return a call of separable attention on patches of 2 x 2, `[B, H, W, C]`."""
    shapes: Shapes = dict.fromkeys(("key", "value"), (batch, *grid, channels))
    shapes["query"] = (batch, *grid, 1)
    return Kernel("separable", separable_attention, shapes, {"patch_size": 2}, batch * math.prod(grid))


def _first(function: Callable[..., tuple[Tensor, Tensor]]) -> Function:
    return lambda *args, **options: function(*args, **options)[0]


ON_CPU = (
    softmax(1, 2304, 8, 48),
    softmax(8, 197, 3, 64),
    talking_heads(1, 2304, 8, 48),
    talking_heads(8, 196, 8, 48),
    window(8, (28, 28), 6, 32, 7, 3),
    neighborhood(1, (56, 56), 2, 32, (7, 7)),
    neighborhood(1, (56, 56), 2, 32, (7, 7), bias=True),
    neighborhood(1, (56, 56), 2, 32, (7, 7), dilation=4),
    neighborhood(8, (28, 28), 4, 32, (7, 7)),
    neighborhood(1, (128, 128), 4, 32, (7, 7)),
    neighborhood(1, (56, 56), 2, 32, (13, 13)),
    neighborhood(1, (8, 32, 32), 4, 32, (3, 7, 7)),
    neighborhood(4, (4096,), 4, 64, (65,)),
    additive(8, 3136, 4, 24),
    efficient_additive(8, 3136, 48),
    separable(8, (32, 32), 128),
)
ON_GPU = (
    softmax(8, 2304, 8, 48),
    talking_heads(8, 2304, 8, 48),
    window(64, (56, 56), 3, 32, 7, 3),
    neighborhood(16, (56, 56), 4, 32, (7, 7)),
    neighborhood(16, (56, 56), 4, 32, (7, 7), bias=True),
    neighborhood(1, (256, 256), 24, 128, (80, 80)),
    neighborhood(1, (30, 48, 80), 24, 128, (18, 24, 24)),
    additive(64, 3136, 4, 24),
    efficient_additive(64, 3136, 48),
    separable(64, (32, 32), 128),
)
"""Sizes of the backbones, and of the tables that others have published."""


def measure_kernels(
    kernels: Sequence[Kernel] | None = None,
    *,
    peers: Sequence[str] = (),
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seconds: float = 1.0,
    training: bool = True,
    report: Callable[[str], object] = lambda line: None,
) -> Iterator[Measurement]:
    """Measure fused operators in turn with what else computes the same.

    Args:
        kernels: the calls; None measures those of the device.
        peers: of `KERNEL_PEERS`.
        device: "cpu", or a GPU such as "cuda".
        dtype: of all tensors.
        seconds: roughly, per implementation and pass.
        training: whether forward and backward are measured, too.
        report: is told which peers are left out, and why.

    Raises:
        OptionError: an unknown peer.

    Example:
        >>> found = measure_kernels([neighborhood(1, (7, 7), 1, 8, (3, 3))], peers=["reference"], seconds=0.01)
        >>> [one.result.library for one in found]
        ['regard', 'reference']
    """
    for name in peers:
        if name not in KERNEL_PEERS:
            raise OptionError.unknown("peer", name, KERNEL_PEERS)
    for kernel in kernels_of(device) if kernels is None else kernels:
        tensors = {
            name: torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            for name, shape in kernel.shapes.items()
        }
        call = partial(kernel.function, **tensors, **kernel.options)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = call()
        found = [Contender("regard", call, list(tensors.values()))]
        for name in peers:
            try:
                other = KERNEL_PEERS[name](kernel, tensors)
                found += [] if other is None else [Contender(name, other, list(tensors.values()))]
            except Exception as error:  # a peer's: the others go on
                report(f"{name} of {kernel}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        traffic = sum(tensor.nbytes for tensor in (*tensors.values(), out))
        size = Run(str(kernel), dtype, device)
        for result in race(found, seconds, training=training, device=device):
            yield Measurement(kernel.mechanism, size, result, counter.get_total_flops(), traffic)


def _by(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def kernels_of(device: str) -> tuple[Kernel, ...]:
    """Return the calls that are measured on a device."""
    return ON_CPU if device == "cpu" else ON_GPU


def _reference(kernel: Kernel, tensors: dict[str, Tensor]) -> Callable[[], Tensor] | None:
    """Return the reference's call, unless it would need too much memory."""
    if kernel.weights * tensors["query"].element_size() > REFERENCE_BYTES:
        return None
    return partial(kernel.function, **tensors, **kernel.options, backend="reference")


def _sdpa(kernel: Kernel, tensors: dict[str, Tensor]) -> Callable[[], Tensor] | None:
    if kernel.mechanism != "softmax":
        return None
    query, key, value = (tensors[name].transpose(1, 2) for name in ("query", "key", "value"))
    return lambda: F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _flex(kernel: Kernel, tensors: dict[str, Tensor]) -> Callable[[], Tensor] | None:
    query = tensors["query"]
    size = kernel.options.get("kernel_size", ())
    if kernel.mechanism != "neighborhood" or query.ndim != 5 or "dilation" in kernel.options:
        return None
    assert isinstance(size, tuple)
    attend = attend_neighborhoods(query.shape[1:3], size, tensors.get("bias"), query.device.type)
    return partial(attend, query, tensors["key"], tensors["value"])


def _natten(kernel: Kernel, tensors: dict[str, Tensor]) -> Callable[[], Tensor] | None:
    if kernel.mechanism != "neighborhood" or "bias" in tensors:
        return None
    function = getattr(import_module("natten"), f"na{tensors['query'].ndim - 3}d")
    return partial(function, tensors["query"], tensors["key"], tensors["value"], **kernel.options)


KERNEL_PEERS: dict[str, Callable[[Kernel, dict[str, Tensor]], Callable[[], Tensor] | None]] = {
    "reference": _reference,
    "sdpa": _sdpa,
    "flex": _flex,
    "natten": _natten,
}
"""By name: a function from a kernel and its tensors to a call, or None where the peer has no such operator."""
