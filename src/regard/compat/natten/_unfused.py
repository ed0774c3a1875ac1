"""Logits and sums of a neighborhood as two operations, heads first, in plain torch. Gradients are autograd's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from regard.attention import checks
from regard.attention.neighborhood import arguments, reference
from regard.attention.neighborhood.arguments import Window
from regard.errors import ShapeError, UnsupportedError

Sizes: TypeAlias = int | Sequence[int]
Flags: TypeAlias = bool | Sequence[bool]


def check_window(
    grid: Sequence[int],
    kernel_size: Sizes,
    dilation: Sizes | None = None,
    is_causal: Flags | None = None,
    stride: Sizes = 1,
) -> Window:
    """Check a window that must fit its grid; NATTEN takes None for no dilation and for not causal."""
    dilation = 1 if dilation is None else dilation
    is_causal = False if is_causal is None else is_causal
    window = arguments.check_window(grid, kernel_size, dilation, stride, is_causal, "pad")  # NATTEN's remedy differs
    if any(size > length for size, length in zip(window.extent, grid, strict=True)):
        raise ShapeError(
            f"kernel_size * dilation must fit the grid {tuple(grid)}, got {kernel_size=} and {dilation=}; "
            "make them smaller or the input larger (the modules of NATTEN up to 0.15, with bias=True or False, pad it)"
        )
    return window


def refuse(**arguments: object) -> None:
    """Refuse arguments that are not None and would change the result."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise UnsupportedError(
            f"regard.compat.natten has no {' and no '.join(given)}: queries see their neighborhood only; leave it out"
        )


def qk(
    rank: int,
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size: Sizes,
    dilation: Sizes | None,
    is_causal: Flags | None = False,
) -> Tensor:
    """Multiply every query with its neighbors: `[B, nh, *grid, hd]` twice to `[B, nh, *grid, K]`."""
    _check_tensors(query=query, key=key, rpb=rpb)
    if not checks.autocasts(query):
        checks.check_tensors({"query": query, "key": key})
    checks.check_grid_tensor("query", query, (rank + 3,), f"[B, nh, {rank} grid axes, hd]")
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    batch, heads, *grid, _ = query.shape
    window = check_window(grid, kernel_size, dilation, is_causal)
    axes = reference.window_axes(*window)
    keys = _gather(key, axes)
    logits = (keys @ query.flatten(0, 1).unsqueeze(-1)).squeeze(-1)  # [B * nh, *grid, K]
    logits = logits.unflatten(0, (batch, heads))
    if rpb is not None:
        table = (heads, *(2 * size - 1 for size in window.kernel_size))
        checks.check_shape("rpb", rpb, table, "is [nh, 2 * kernel_size - 1 per axis]")
        index = reference.neighborhood_bias_index(axes, grid, query.device)
        logits = logits + rpb.to(logits.dtype).flatten(1)[:, index]  # [nh, *grid, K]
    if any(window.is_causal):
        logits = logits.masked_fill(~_visible(axes, grid, query.device), -torch.inf)
    return logits


def av(
    rank: int,
    attn: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None,
    is_causal: Flags | None = False,
) -> Tensor:
    """Sum every query's neighbors: `[B, nh, *grid, K]` and `[B, nh, *grid, hd]` to `[B, nh, *grid, hd]`."""
    _check_tensors(attn=attn, value=value)
    checks.check_grid_tensor("value", value, (rank + 3,), f"[B, nh, {rank} grid axes, hd]")
    batch, heads, *grid, _ = value.shape
    window = check_window(grid, kernel_size, dilation, is_causal)
    axes = reference.window_axes(*window)
    neighbors = math.prod(window.kernel_size)
    checks.check_shape("attn", attn, (batch, heads, *grid, neighbors), "is [B, nh, *grid, K] for value's grid")
    if any(window.is_causal):
        attn = attn.masked_fill(~_visible(axes, grid, value.device), 0.0)
    attn = attn.to(value.dtype)  # as NATTEN does: a softmax is often wider than the values
    out = (attn.flatten(0, 1).unsqueeze(-2) @ _gather(value, axes)).squeeze(-2)  # [B * nh, *grid, hd]
    return out.unflatten(0, (batch, heads))


def _check_tensors(**tensors: Tensor | None) -> None:
    """Check floating-point tensors on one device, whose dtypes may differ."""
    for name, tensor in tensors.items():
        checks.check_tensors({name: tensor})
    devices = {name: str(tensor.device) for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise TypeError(f"all tensors must have the same device, got {devices}; move them with .to()")


def _gather(tensor: Tensor, axes: Sequence[reference.Axis]) -> Tensor:
    """Bring neighbors together, `[B, nh, *grid, hd]` to `[B * nh, *grid, K, hd]`: heads are a batch here."""
    return reference.gather_neighbors(tensor.flatten(0, 1).unsqueeze(-2), axes).squeeze(-3)


def _visible(axes: Sequence[reference.Axis], grid: Sequence[int], device: torch.device) -> Tensor:
    return reference.visible(axes, grid, device).squeeze(-2)  # [*grid, K]
