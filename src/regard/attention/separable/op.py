"""The CPU kernel of separable attention as an operator of PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention._native import calls
from regard.attention._transforms import map_entries, register_gradients
from regard.attention.separable import reference


def separable_attention(query: Tensor, key: Tensor, value: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Call the operator with what the reference takes."""
    grids = list(key.shape[1:-1]), list(value.shape[1:-1])
    tensors = (tensor.flatten(1, -2) for tensor in (query, key, value))  # [B, N, C]
    return _forward(*tensors, *grids, list(patch_size)).view(value.shape)


def decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_grid: Sequence[int],
    value_grid: Sequence[int],
    patch_size: Sequence[int],
) -> Tensor:
    """Do what the operator does with the reference."""
    query, key = query.unflatten(1, key_grid), key.unflatten(1, key_grid)
    out = reference.separable_attention(query, key, value.unflatten(1, value_grid), tuple(patch_size), 0.0)
    return out.flatten(1, -2)


@torch.library.custom_op("regard::separable_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_grid: Sequence[int],
    value_grid: Sequence[int],
    patch_size: Sequence[int],
) -> Tensor:
    """Return the output, `[B, N, C]`."""
    out = value.new_empty(value.shape)
    if out.numel():
        problem = _problem(key, key_grid, value_grid, patch_size)
        calls.call("regard_separable_forward", key.dtype, problem, _operands(query, key, value, out))
    return out


@torch.library.custom_op("regard::separable_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_grid: Sequence[int],
    value_grid: Sequence[int],
    patch_size: Sequence[int],
) -> list[Tensor]:
    """Return the gradients of query, key and value."""
    gradients = calls.empty_gradients(query, key, value)
    if out_gradient.numel():
        problem = _problem(key, key_grid, value_grid, patch_size)
        operands = _operands(query, key, value, out_gradient, *gradients)
        calls.call("regard_separable_backward", key.dtype, problem, operands)
    return gradients


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return value.new_empty(value.shape)


@_backward.register_fake
def _fake_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: object) -> list[Tensor]:
    return calls.empty_gradients(query, key, value)


def _gradients(inputs: list[Any], out_gradient: Tensor) -> list[Tensor | None]:
    return [*_backward(out_gradient, *inputs), None, None, None]


register_gradients(_forward, _gradients, decompose)
_forward.register_vmap(map_entries(_forward))
_backward.register_vmap(map_entries(_backward))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "channels", "threads")),
        *((name, ctypes.c_int64 * 3) for name in ("keys", "values", "patch")),
    )


def _problem(key: Tensor, *grids: Sequence[int]) -> _Problem:
    sizes = (key.shape[0], key.shape[-1], torch.get_num_threads())
    return _Problem(*sizes, *(calls.per_axis(grid, 1) for grid in grids))


def _operands(*tensors: Tensor) -> Any:  # noqa: ANN401
    return calls.operands(*(tensor.unsqueeze(-2) for tensor in tensors))
