"""Check the arguments of window attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from regard.attention import checks
from regard.attention.grid import pad_grid, whole_windows
from regard.attention.window.op import OPERATOR
from regard.attention.window.reference import Arguments
from regard.errors import ShapeError


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: int | Sequence[int],
    *,
    shift_size: int | Sequence[int] = 0,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    small_grid: Literal["error", "pad"] = "error",
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `window_attention`; return them padded to whole windows, and why no kernel serves them."""
    checks.check_tensors({"query": query, "key": key, "value": value, "bias": bias})
    checks.check_grid_tensor("query", query, (4, 5, 6), checks.LAYOUT)
    checks.check_probability("dropout_p", dropout_p)
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    checks.check_shape("value", value, (*query.shape[:-1], None), "must equal query's shape but for its last axis")
    grid = query.shape[1:-2]
    window, shift = check_window(len(grid), window_size, shift_size)
    check_small_grid(grid, window, small_grid)
    if bias is not None:
        table = (query.shape[-2], *(2 * size - 1 for size in window))
        checks.check_shape("bias", bias, table, "is [nh, 2 * window_size - 1 per axis]")
    scale = checks.scale_of(query, scale)
    padded = whole_windows(grid, window)
    query, key, value = (pad_grid(tensor, padded) for tensor in (query, key, value))
    arguments = Arguments(query, key, value, window, shift, bias, scale, dropout_p)
    return arguments, OPERATOR.reasons(arguments)


def check_window(
    axes: int, window_size: int | Sequence[int], shift_size: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Expand window and shift to one number per axis, and check that the shift is smaller."""
    window = checks.per_axis("window_size", window_size, axes, minimum=1)
    shift = checks.per_axis("shift_size", shift_size, axes)
    if any(step >= size for step, size in zip(shift, window, strict=True)):
        raise ShapeError(
            f"shift_size must be less than window_size, got {shift_size=} and {window_size=}; use 0 for no shift"
        )
    return window, shift


def check_small_grid(grid: Sequence[int], window: Sequence[int], small_grid: str) -> None:
    """Check that a window fits every axis of the grid, or that the caller pads small grids."""
    checks.check_word("small_grid", small_grid, ("error", "pad"))
    if small_grid == "error" and any(size > length for size, length in zip(window, grid, strict=True)):
        raise ShapeError(
            f"window_size must fit the grid {tuple(grid)}, got {tuple(window)}; "
            "make it smaller, or pass small_grid='pad'"
        )
