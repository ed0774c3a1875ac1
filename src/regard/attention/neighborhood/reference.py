"""Neighborhood attention in eager PyTorch: the definition that the kernels are held to.

Along each axis a query attends to `kernel` keys of its own dilation group. Windows are shifted inwards at the borders,
so that every query of a non-causal axis has exactly that many keys. Axes are independent; the neighborhood is their
Cartesian product. The keys are gathered, so memory grows with N * K * hd and never with N * N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout


class Axis(NamedTuple):
    """The window along one axis of the grid."""

    kernel: int
    dilation: int
    stride: int
    is_causal: bool


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator; the grid holds the window."""

    query: Tensor
    key: Tensor
    value: Tensor
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    stride: tuple[int, ...]
    is_causal: tuple[bool, ...]
    bias: Tensor | None
    scale: float
    dropout_p: float


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend to the neighborhood of every grid position, `[B, *grid, nh, hd_v]`."""
    weights = neighborhood_weights(query, key, kernel_size, dilation, stride, is_causal, bias, scale)
    values = gather_neighbors(value, window_axes(kernel_size, dilation, stride, is_causal))
    return (dropout(weights, dropout_p).unsqueeze(-2) @ values).squeeze(-2)


def neighborhood_weights(
    query: Tensor,
    key: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the softmax over every query's neighborhood, `[B, *grid, nh, K]`; hidden positions weigh 0."""
    axes = window_axes(kernel_size, dilation, stride, is_causal)
    grid = query.shape[1:-2]
    keys = gather_neighbors(key, axes)
    logits = ((query * scale).unsqueeze(-2) @ keys.transpose(-2, -1)).squeeze(-2)
    if bias is not None:
        logits = logits + gather_bias(bias, axes, grid)
    if any(is_causal):
        logits = logits.masked_fill(~visible(axes, grid, query.device), -torch.inf)
    return logits.softmax(-1)


def window_axes(
    kernel_size: Sequence[int], dilation: Sequence[int], stride: Sequence[int], is_causal: Sequence[bool]
) -> tuple[Axis, ...]:
    """Gather a window's options per axis."""
    return tuple(map(Axis, kernel_size, dilation, stride, is_causal))


def gather_neighbors(tensor: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Gather every position's neighbors: `[B, *grid, nh, hd]` to `[B, *grid, nh, K, hd]`."""
    for dim, axis in zip(range(1, 2 * len(axes), 2), axes, strict=True):  # the axes before dim have become two
        index, _ = axis_neighbors(axis, tensor.shape[dim], tensor.device)
        tensor = tensor.index_select(dim, index.flatten()).unflatten(dim, index.shape)
    positions, offsets = range(1, 2 * len(axes), 2), range(2, 2 * len(axes) + 1, 2)
    tensor = tensor.permute(0, *positions, -2, *offsets, -1)  # [B, *grid, nh, *kernel, hd]
    return tensor.flatten(len(axes) + 2, -2)


def gather_bias(bias: Tensor, axes: Sequence[Axis], grid: Sequence[int]) -> Tensor:
    """Gather the bias of every query and neighbor, `[*grid, nh, K]`, axis by axis: the indices stay short."""
    for dim, (axis, length) in zip(range(1, 2 * len(axes), 2), zip(axes, grid, strict=True), strict=True):
        relative = _relative(axis, length, bias.device)
        bias = bias.index_select(dim, relative.flatten()).unflatten(dim, relative.shape)
    positions, offsets = range(1, 2 * len(axes), 2), range(2, 2 * len(axes) + 1, 2)
    return bias.permute(*positions, 0, *offsets).flatten(len(axes) + 1)


def neighborhood_bias_index(axes: Sequence[Axis], grid: Sequence[int], device: torch.device) -> Tensor:
    """Index the flattened relative table for every query and neighbor, `[*grid, K]`."""
    index = torch.zeros((), dtype=torch.int64, device=device)
    for dim, (axis, length) in enumerate(zip(axes, grid, strict=True)):
        index = index * (2 * axis.kernel - 1) + _along(dim, _relative(axis, length, device), len(axes))
    return index.flatten(len(axes))


def _relative(axis: Axis, length: int, device: torch.device) -> Tensor:
    """Index one axis of the relative table for every query and neighbor along it, `[L, k]`."""
    _, offset = axis_neighbors(axis, length, device)
    return (offset + axis.kernel - 1).clamp(max=2 * axis.kernel - 2)


def neighborhood_keys(axes: Sequence[Axis], grid: Sequence[int], device: torch.device) -> Tensor:
    """Number the neighbors of every query by their position in the grid, row-major, `[*grid, K]`."""
    keys = torch.zeros((), dtype=torch.int64, device=device)
    for dim, (axis, length) in enumerate(zip(axes, grid, strict=True)):
        neighbors, _ = axis_neighbors(axis, length, device)
        keys = keys * length + _along(dim, neighbors, len(axes))
    return keys.flatten(len(axes))


def visible(axes: Sequence[Axis], grid: Sequence[int], device: torch.device) -> Tensor:
    """Return which neighbors a query sees: on causal axes those at or before it, `[*grid, 1, K]`."""
    seen = torch.ones((), dtype=torch.bool, device=device)
    for dim, (axis, length) in enumerate(zip(axes, grid, strict=True)):
        _, offset = axis_neighbors(axis, length, device)
        limit = 0 if axis.is_causal else axis.kernel
        seen = seen & _along(dim, offset <= limit, len(axes))
    return seen.flatten(len(axes)).unsqueeze(-2)


def axis_neighbors(axis: Axis, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Find the neighbors along one axis.

    A position belongs to the group of its remainder by `dilation`; runs of `stride` members of a group share the
    window of their leader. NATTEN's reference mask (SHI-Labs/NATTEN, csrc/include/natten/cuda/reference/mask.hpp)
    defines the same windows.

    Returns:
        The neighbors' positions and their offsets from the query in units of `dilation` (key minus query), `[L, K]`
        each. Where a causal window is cut off, positions repeat the group's last one; their offsets are positive.
    """
    kernel, dilation, stride, is_causal = axis
    position = torch.arange(length, device=device)
    group, place = position % dilation, position // dilation
    members = (length - 1 - group) // dilation + 1
    run = place // stride * stride
    if is_causal:
        leader = torch.minimum(run + stride - 1, members - 1)
        start = (leader - kernel + 1).clamp(min=0)
    else:
        leader = torch.minimum(run + stride // 2, members - 1)
        start = torch.minimum((leader - kernel // 2).clamp(min=0), members - kernel)
    neighbor = start[:, None] + torch.arange(kernel, device=device)
    inside = torch.minimum(neighbor, members[:, None] - 1)
    return group[:, None] + dilation * inside, neighbor - place[:, None]


def _along(dim: int, pairs: Tensor, axes: int) -> Tensor:
    """Lay an axis' `[L, K]` values out for broadcasting over `[*grid, *kernel]`."""
    layout = [1] * (2 * axes)
    layout[dim], layout[axes + dim] = pairs.shape
    return pairs.reshape(layout)
