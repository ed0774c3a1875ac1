"""Checks of arguments that the mechanisms share. An error says what was expected, what was given and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from regard.errors import OptionError, ShapeError

T = TypeVar("T")

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

LAYOUT = "[B, *grid, nh, hd] with a grid of 1, 2 or 3 axes"
TOKEN_LAYOUT = "[B, *grid, C] with a grid of 1, 2 or 3 axes"


def check_tensors(tensors: Mapping[str, Tensor | None]) -> None:
    """Check that the arguments are dense floating-point tensors of one dtype on one device; None is absent."""
    if _alike(tensors.values()):
        return
    present: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be a floating-point tensor (16 to 64 bits), got {tensor.dtype}; use .float()")
        if tensor.layout != torch.strided or tensor.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}; convert it with .to_dense()")
        present[name] = tensor
    for quality in ("dtype", "device"):
        if len({getattr(tensor, quality) for tensor in present.values()}) > 1:
            found = ", ".join(f"{name} {getattr(tensor, quality)}" for name, tensor in present.items())
            raise TypeError(f"all tensors must have the same {quality}, got {found}; move them with .to()")


def _alike(tensors: Iterable[Tensor | None]) -> bool:
    """Fast path: whether all tensors are valid. In small networks the slow path would take a share of the time."""
    first = None
    for tensor in tensors:
        if tensor is None:
            continue
        if first is None:
            first = tensor
            if not isinstance(first, Tensor) or first.dtype not in DTYPES:
                return False
        if not isinstance(tensor, Tensor) or tensor.dtype != first.dtype or tensor.device != first.device:
            return False
        if tensor.layout != torch.strided or tensor.is_nested:
            return False
    return True


def check_grid_tensor(name: str, tensor: Tensor, ranks: Sequence[int], layout: str) -> None:
    """Check the number of dimensions of a grid tensor, and that only the batch may be empty."""
    if tensor.ndim not in ranks:
        expected = " or ".join(map(str, ranks))
        raise ShapeError(f"{name} must have {expected} dimensions {layout}, got {tensor.ndim} {shape(tensor)}")
    if 0 in tensor.shape[1:]:
        raise ShapeError(f"{name} must not be empty beyond its batch, {layout}, got {shape(tensor)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int | None], rule: str) -> None:
    """Check a shape; None stands for any size of at least 1."""
    found = tensor.shape
    if len(found) == len(expected):
        for got, want in zip(found, expected, strict=True):
            if got != want and (want is not None or got == 0):
                break
        else:
            return
    pattern = ", ".join("any" if size is None else str(size) for size in expected)
    raise ShapeError(f"{name} {rule}: expected [{pattern}], got {shape(tensor)}")


def check_query_key(query: Tensor, key: Tensor) -> None:
    """Check query and key of a mechanism in which every query sees every key: their grids may differ."""
    check_grid_tensor("query", query, (4, 5, 6), LAYOUT)
    check_grid_tensor("key", key, (4, 5, 6), LAYOUT)
    expected = (query.shape[0], *[None] * (key.ndim - 3), *query.shape[-2:])
    check_shape("key", key, expected, "must equal query's shape but for its grid")


def autocasts(tensor: Tensor) -> bool:
    """Return whether autocast is enabled where a tensor is; PyTorch itself raises an error for devices without it."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def check_input(x: Tensor, ranks: Sequence[int], layout: str, weight: Tensor) -> None:
    """Check a module's input `[B, *grid, C]` against the weight `[out, C]` of its first projection."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    check_grid_tensor("x", x, ranks, layout)
    if x.shape[-1] != weight.shape[-1]:
        raise ShapeError(f"x must have {weight.shape[-1]} channels on its last axis, {layout}, got {shape(x)}")
    if x.device != weight.device:
        raise TypeError(f"x must be on the module's device {weight.device}, got {x.device}; move one with .to()")
    if x.dtype != weight.dtype and not autocasts(x):
        raise TypeError(f"x must have the module's dtype {weight.dtype}, got {x.dtype}; convert one with .to()")


def whole(name: str, value: int, minimum: int = 1) -> int:
    """Check a whole number of at least `minimum`; NumPy's are taken, bools are not."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < minimum:
        raise ShapeError(f"{name} must be at least {minimum}, got {value}")
    return value if isinstance(value, torch.SymInt) else index(value)  # an index would fix a dynamic size


def per_axis(name: str, value: int | Sequence[int], axes: int, minimum: int = 0) -> tuple[int, ...]:
    """Expand one whole number, or one per grid axis, to a tuple of `axes` numbers of at least `minimum`."""
    return tuple(whole(name, one, minimum) for one in _spread(name, value, axes))


def flags_per_axis(name: str, value: bool | Sequence[bool], axes: int) -> tuple[bool, ...]:
    """Expand one flag, or one per grid axis, to a tuple of `axes` flags."""
    flags = _spread(name, value, axes)
    if any(not isinstance(flag, bool) for flag in flags):
        raise TypeError(f"{name} must be True or False, or one of them per grid axis, got {value!r}")
    return flags


def _spread(name: str, value: T | Sequence[T], axes: int) -> tuple[T, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,) * axes
    values = tuple(value)
    if len(values) != axes:
        raise ShapeError(f"{name} must be one value or one per grid axis ({axes}), got {value}")
    return values


def check_grid(grid: Sequence[int]) -> tuple[int, ...]:
    """Check the lengths of a grid of one, two or three axes."""
    if isinstance(grid, str) or not isinstance(grid, Iterable) or len(tuple(grid)) not in (1, 2, 3):
        raise ShapeError(f"a grid must have one length for each of its 1, 2 or 3 axes, got {grid!r}")
    return tuple(whole("a grid's lengths", length) for length in grid)


def check_word(name: str, value: str, valid: Sequence[str]) -> None:
    """Check that an option is one of its valid words."""
    if value not in valid:
        raise OptionError.unknown(name, value, valid)


def check_probability(name: str, value: float) -> None:
    """Check that a dropout probability lies in [0, 1)."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= value < 1.0:
        raise ShapeError(f"{name} must be in [0, 1), got {value}")


def scale_of(query: Tensor, scale: float | None) -> float:
    """Check the factor on the dot products; None stands for hd ** -0.5."""
    if scale is None:
        channels: Any = query.shape[-1]
        if isinstance(channels, Tensor):  # so has torch.jit.trace it, whose powers of integers are float32
            channels = channels.double()
        return cast("float", channels**-0.5)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(
            f"scale must be a number, got {type(scale).__name__}; multiply the query by a learned one, with scale=1.0"
        )
    return scale


def shape(tensor: Tensor | torch.Size | Sequence[int]) -> str:
    """Write a shape as `[2, 7, 7, 4, 32]`."""
    return str(list(tensor.shape if isinstance(tensor, Tensor) else tensor))


def head_dim(dim: int, num_heads: int) -> int:
    """Divide the channels among the heads."""
    if whole("dim", dim) % whole("num_heads", num_heads):
        raise ShapeError(f"dim must be a multiple of num_heads, got {dim=} and {num_heads=}")
    return dim // num_heads
