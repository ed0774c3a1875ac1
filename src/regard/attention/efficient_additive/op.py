"""The CPU kernel of efficient additive attention as an operator of PyTorch."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from regard.attention._native import calls
from regard.attention._pooling import TokenNorm
from regard.attention._transforms import map_entries, register_gradients
from regard.attention.efficient_additive import reference

NORMS = ("softmax", "l2", "ones")  # in cpu.cpp's order


def efficient_additive_attention(
    query: Tensor, key: Tensor, weight: Tensor, token_norm: TokenNorm, scale: float
) -> tuple[Tensor, Tensor]:
    """Call the operator with what the reference takes."""
    out, unit_query = _forward(query.flatten(1, -2), key.flatten(1, -2), weight, NORMS.index(token_norm), scale)
    return out.view(query.shape), unit_query.view(query.shape)


def decompose(query: Tensor, key: Tensor, weight: Tensor, token_norm: int, scale: float) -> tuple[Tensor, Tensor]:
    """Do what the operator does with the reference."""
    return reference.efficient_additive_attention(query, key, weight, NORMS[token_norm], scale)  # type: ignore[arg-type]


@torch.library.custom_op("regard::efficient_additive_attention", mutates_args=(), device_types="cpu")
def _forward(query: Tensor, key: Tensor, weight: Tensor, token_norm: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the context on the unit keys and the unit queries, `[B, N, C]` each."""
    out, unit_query = query.new_empty(query.shape), query.new_empty(query.shape)
    vector = calls.table(weight)  # named, so that it lives until the kernel has read it
    if out.numel():
        calls.call(
            "regard_efficient_additive_forward",
            query.dtype,
            _problem(query, token_norm, scale),
            _operands(query, key, out, unit_query),
            calls.pointer(vector),
        )
    return out, unit_query


@torch.library.custom_op("regard::efficient_additive_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor,
    unit_query_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    token_norm: int,
    scale: float,
) -> list[Tensor]:
    """Return the gradients of query, key and weight."""
    gradients = calls.empty_gradients(query, key, weight)
    vector = calls.table(weight)
    vector_gradient = torch.zeros_like(weight, dtype=calls.statistics_dtype(weight))
    if query.numel():
        calls.call(
            "regard_efficient_additive_backward",
            query.dtype,
            _problem(query, token_norm, scale),
            _operands(query, key, out_gradient, unit_query_gradient, *gradients[:2]),
            calls.pointer(vector),
            calls.pointer(vector_gradient),
        )
    gradients[2].copy_(vector_gradient)
    return gradients


@_forward.register_fake
def _fake_forward(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape)


@_backward.register_fake
def _fake_backward(_: Tensor, __: Tensor, query: Tensor, key: Tensor, weight: Tensor, *___: object) -> list[Tensor]:
    return calls.empty_gradients(query, key, weight)


def _gradients(inputs: list[Any], *out_gradients: Tensor) -> list[Tensor | None]:
    return [*_backward(*out_gradients, *inputs), None, None]


register_gradients(_forward, _gradients, decompose)
_forward.register_vmap(map_entries(_forward))
_backward.register_vmap(map_entries(_backward))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "channels", "threads", "token_norm")),
        *((name, ctypes.c_double) for name in ("scale", "smallest")),
    )


def _problem(query: Tensor, token_norm: int, scale: float) -> _Problem:
    smallest = max(1e-12, torch.finfo(query.dtype).smallest_normal)  # as the reference clamps norms
    return _Problem(*query.shape, torch.get_num_threads(), token_norm, scale, smallest)


def _operands(*tensors: Tensor) -> Any:  # noqa: ANN401
    return calls.operands(*(tensor.unsqueeze(-2) for tensor in tensors))
