"""Check the arguments of softmax attention and normalize them for the reference and PyTorch's kernels."""

from __future__ import annotations

import math

from torch import Tensor

from regard.attention import checks
from regard.attention._transforms import forward_mode_reasons
from regard.attention.softmax.reference import Arguments
from regard.errors import ShapeError


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    relative_key: Tensor | None = None,
    relative_value: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `softmax_attention`; return them, and why no kernel serves them."""
    relative = {"relative_key": relative_key, "relative_value": relative_value}
    checks.check_tensors({"query": query, "key": key, "value": value, "bias": bias, **relative})
    checks.check_query_key(query, key)
    checks.check_shape("value", value, (*key.shape[:-1], None), "must equal key's shape but for its last axis")
    checks.check_probability("dropout_p", dropout_p)
    if bias is not None:
        batch, *queries, heads, _ = query.shape
        _check_bias(bias, (batch, heads, math.prod(queries), math.prod(key.shape[1:-2])))
    if relative_key is not None:
        _check_relative("relative_key", relative_key, query, key, query.shape[-1])
    if relative_value is not None:
        _check_relative("relative_value", relative_value, query, key, value.shape[-1])
    reasons = [
        f"{name} is given, and the fused kernels take none" for name, table in relative.items() if table is not None
    ]
    reasons += forward_mode_reasons()
    scale = checks.scale_of(query, scale)
    return Arguments(query, key, value, bias, relative_key, relative_value, scale, dropout_p), reasons


def _check_bias(bias: Tensor, target: tuple[int, int, int, int]) -> None:
    fits = zip(reversed(bias.shape), reversed(target), strict=False)
    if bias.ndim not in (2, 3, 4) or any(got not in (1, want) for got, want in fits):
        raise ShapeError(
            f"bias must broadcast to [B, nh, N, M] = {checks.shape(target)}, got {checks.shape(bias)}; "
            "every axis is that size or 1, and B and nh may be left out"
        )


def _check_relative(name: str, table: Tensor, query: Tensor, key: Tensor, width: int) -> None:
    grid, keys = query.shape[1:-2], key.shape[1:-2]
    if grid != keys:
        raise ShapeError(
            f"{name} needs query and key on the same grid, got {checks.shape(grid)} and {checks.shape(keys)}; "
            "leave it out"
        )
    checks.check_shape(name, table, (len(grid), None, width), "is [grid axes, 2 * k + 1, head dim]")
    if table.shape[1] % 2 == 0:
        raise ShapeError(f"{name} must have an odd number 2 * k + 1 of rows, got {table.shape[1]}; add or drop one")
