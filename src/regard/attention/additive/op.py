"""The CPU kernel of additive attention as an operator of PyTorch."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from regard.attention._native import calls
from regard.attention._transforms import map_entries, register_gradients
from regard.attention.additive import reference


def additive_attention(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Call the operator with what the reference takes."""
    tokens = (query.flatten(1, -3), key.flatten(1, -3))  # [B, N, nh, hd]
    out: Tensor = _forward(*tokens, query_weight, key_weight, query_bias, key_bias, scale)
    return out.view(query.shape)


@torch.library.custom_op("regard::additive_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the output, `[B, N, nh, hd]`; the scores' biases cancel in the softmax unless they are NaN or infinite."""
    out = query.new_empty(query.shape)
    pairs = ((query_weight, query_bias), (key_weight, key_bias))
    weights = [calls.table(weight if bias is None else weight + 0 * bias[:, None]) for weight, bias in pairs]
    if out.numel():
        tokens = _side_by_side(query, key, out)
        problem, operands = _problem(query, scale), calls.operands(*tokens)
        calls.call("regard_additive_forward", query.dtype, problem, operands, *map(calls.pointer, weights))
    return out


@torch.library.custom_op("regard::additive_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor, query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, scale: float
) -> list[Tensor]:
    """Return the gradients of query, key and both weights."""
    gradients = calls.empty_gradients(query, key, query_weight, key_weight)
    weights = calls.table(query_weight), calls.table(key_weight)
    collected = [torch.zeros_like(weight) for weight in weights if weight is not None]
    if query.numel():
        tokens = _side_by_side(query, key, out_gradient, *gradients[:2])
        calls.call(
            "regard_additive_backward",
            query.dtype,
            _problem(query, scale),
            calls.operands(*tokens),
            *map(calls.pointer, weights),
            *map(calls.pointer, collected),
        )
    for gradient, sum_of_all in zip(gradients[2:], collected, strict=True):
        gradient.copy_(sum_of_all)
    return gradients


@_forward.register_fake
def _fake_forward(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape)


@_backward.register_fake
def _fake_backward(_: Tensor, *tensors: Any) -> list[Tensor]:  # noqa: ANN401
    return calls.empty_gradients(*tensors[:-1])


def _gradients(inputs: list[Any], out_gradient: Tensor) -> list[Tensor | None]:
    *tensors, query_bias, key_bias, scale = inputs
    nothing = (None if bias is None else torch.zeros_like(bias) for bias in (query_bias, key_bias))  # they cancel
    return [*_backward(out_gradient, *tensors, scale), *nothing, None]


register_gradients(_forward, _gradients, reference.additive_attention)
_forward.register_vmap(map_entries(_forward))
_backward.register_vmap(map_entries(_backward))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "head_dim", "threads")),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, scale: float) -> _Problem:
    return _Problem(*query.shape, torch.get_num_threads(), scale)


def _side_by_side(*tensors: Tensor) -> list[Tensor]:
    """Make one axis of heads and channels, `[B, N, 1, C]`; inputs whose heads stand apart are copied."""
    return [tensor.flatten(2).unsqueeze(2) for tensor in tensors]
