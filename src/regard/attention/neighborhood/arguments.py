"""Check the arguments of neighborhood attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from regard.attention import checks
from regard.attention.grid import at_least, pad_grid
from regard.attention.neighborhood.op import OPERATOR
from regard.attention.neighborhood.reference import Arguments
from regard.errors import ShapeError


class Window(NamedTuple):
    """A neighborhood's options, one per grid axis."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    stride: tuple[int, ...]
    is_causal: tuple[bool, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """The smallest grid that holds the window."""
        return tuple(size * step for size, step in zip(self.kernel_size, self.dilation, strict=True))


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    small_grid: Literal["error", "pad"] = "error",
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `neighborhood_attention`; return them padded, and why no kernel serves them."""
    checks.check_tensors({"query": query, "key": key, "value": value, "bias": bias})
    checks.check_grid_tensor("query", query, (4, 5, 6), checks.LAYOUT)
    checks.check_probability("dropout_p", dropout_p)
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    checks.check_shape("value", value, (*query.shape[:-1], None), "must equal query's shape but for its last axis")
    window = check_window(query.shape[1:-2], kernel_size, dilation, stride, is_causal, small_grid)
    if bias is not None:
        table = (query.shape[-2], *(2 * size - 1 for size in window.kernel_size))
        checks.check_shape("bias", bias, table, "is [nh, 2 * kernel_size - 1 per axis]")
    scale = checks.scale_of(query, scale)
    if small_grid == "pad":
        padded = at_least(query.shape[1:-2], window.extent)
        query, key, value = (pad_grid(tensor, padded) for tensor in (query, key, value))
    arguments = Arguments(query, key, value, *window, bias, scale, dropout_p)
    return arguments, OPERATOR.reasons(arguments)


def check_window(
    grid: Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    small_grid: str,
) -> Window:
    """Expand the window's options to one per axis, and check them against the grid."""
    axes = len(checks.check_grid(grid))
    checks.check_word("small_grid", small_grid, ("error", "pad"))
    window = Window(
        checks.per_axis("kernel_size", kernel_size, axes, minimum=1),
        checks.per_axis("dilation", dilation, axes, minimum=1),
        checks.per_axis("stride", stride, axes, minimum=1),
        checks.flags_per_axis("is_causal", is_causal, axes),
    )
    if any(run > size for run, size in zip(window.stride, window.kernel_size, strict=True)):
        raise ShapeError(f"stride must be at most kernel_size, got {stride=} and {kernel_size=}")
    if small_grid == "error" and any(size > length for size, length in zip(window.extent, grid, strict=True)):
        raise ShapeError(
            f"kernel_size * dilation must fit the grid {tuple(grid)}, got {kernel_size=} and {dilation=}; "
            "make them smaller, or pass small_grid='pad'"
        )
    return window
