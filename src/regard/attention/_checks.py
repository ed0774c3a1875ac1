"""Checks of arguments that the mechanisms share. Every check says what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from regard.errors import OptionError, ShapeError

T = TypeVar("T", int, bool)

LAYOUT = "[B, *grid, nh, hd] with a grid of 1, 2 or 3 axes"


def check_tensors(tensors: Mapping[str, Tensor | None]) -> None:
    """Check that the arguments are floating-point tensors of one dtype on one device; None is an absent argument."""
    present: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {tensor.dtype}; convert it with .float()")
        present[name] = tensor
    for quality in ("dtype", "device"):
        if len({getattr(tensor, quality) for tensor in present.values()}) > 1:
            found = ", ".join(f"{name} {getattr(tensor, quality)}" for name, tensor in present.items())
            raise TypeError(f"all tensors must have the same {quality}, got {found}; move them with .to()")


def check_grid_tensor(name: str, tensor: Tensor, ranks: Sequence[int], layout: str) -> None:
    """Check the number of dimensions of a grid tensor, and that only the batch may be empty."""
    if tensor.ndim not in ranks:
        expected = " or ".join(map(str, ranks))
        raise ShapeError(f"{name} must have {expected} dimensions {layout}, got {tensor.ndim} {shape(tensor)}")
    if 0 in tensor.shape[1:]:
        raise ShapeError(f"{name} must not be empty beyond its batch, {layout}, got {shape(tensor)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int | None], rule: str) -> None:
    """Check a shape; None stands for any size of at least 1."""
    if tensor.ndim == len(expected) and all(
        got == want if want is not None else got > 0 for got, want in zip(tensor.shape, expected, strict=True)
    ):
        return
    pattern = ", ".join("any" if size is None else str(size) for size in expected)
    raise ShapeError(f"{name} {rule}: expected [{pattern}], got {shape(tensor)}")


def check_query_key(query: Tensor, key: Tensor) -> None:
    """Check query and key of a mechanism in which every query sees every key: their grids may differ."""
    check_grid_tensor("query", query, (4, 5, 6), LAYOUT)
    check_grid_tensor("key", key, (4, 5, 6), LAYOUT)
    expected = (query.shape[0], *[None] * (key.ndim - 3), *query.shape[-2:])
    check_shape("key", key, expected, "must equal query's shape but for its grid")


def per_axis(name: str, value: T | Sequence[T], axes: int, minimum: int = 0) -> tuple[T, ...]:
    """Expand one value, or one per grid axis, to a tuple of `axes` values of at least `minimum`."""
    values: tuple[T, ...]
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise ShapeError(f"{name} must be one value or one per grid axis ({axes}), got {value}")
    for one in values:
        if not isinstance(one, int):
            raise TypeError(f"{name} must be whole numbers, got {value!r}")
        if one < minimum:
            raise ShapeError(f"{name} must be at least {minimum} on every axis, got {value}")
    return values


def check_word(name: str, value: str, valid: Sequence[str]) -> None:
    """Check that an option is one of its valid words."""
    if value not in valid:
        raise OptionError.unknown(name, value, valid)


def check_probability(name: str, value: float) -> None:
    """Check that a dropout probability lies in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ShapeError(f"{name} must be in [0, 1), got {value}")


def shape(tensor: Tensor | torch.Size | Sequence[int]) -> str:
    """Write a shape as `[2, 7, 7, 4, 32]`."""
    return str(list(tensor.shape if isinstance(tensor, Tensor) else tensor))


def head_dim(dim: int, num_heads: int) -> int:
    """Divide the channels among the heads."""
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise ShapeError(f"dim must be a positive multiple of num_heads, got {dim=} and {num_heads=}")
    return dim // num_heads
