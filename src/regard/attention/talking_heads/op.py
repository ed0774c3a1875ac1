"""The CPU kernel of talking-heads attention as an operator of PyTorch."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import torch
from torch import Tensor

from regard.attention._flops import flop_formula
from regard.attention._native import calls
from regard.attention._transforms import cast_for_autocast, map_entries, register_gradients
from regard.attention.talking_heads import reference


def talking_heads_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Call the operator with what the reference takes."""
    tensors = (query.flatten(1, -3), key.flatten(1, -3), value.flatten(1, -3))  # [B, N, heads, hd]
    mixes = (logits_mix, weights_mix, logits_bias, weights_bias)
    out: Tensor = _forward(*cast_for_autocast(*tensors, *mixes), scale)
    return out.unflatten(1, query.shape[1:-2])


def decompose(*inputs: Any) -> Tensor:  # noqa: ANN401
    """Do what the operator does with the reference."""
    no_dropout = (*inputs, 0.0)
    return reference.talking_heads_attention(*no_dropout)


@torch.library.custom_op("regard::talking_heads_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the output, `[B, N, h_v, hd_v]`; the logits' bias cancels in the softmax unless it is NaN or infinite."""
    out = _empty_output(query, value)
    logits_mix = logits_mix if logits_bias is None else logits_mix + 0 * logits_bias[:, None]
    mixes = _mixes(logits_mix, weights_mix, weights_bias)  # named, so that they live until the kernel has read them
    if out.numel():
        calls.call(
            "regard_talking_heads_forward",
            query.dtype,
            _problem(query, key, value, logits_mix, scale),
            calls.operands(query, key, value, out),
            *map(calls.pointer, mixes),
        )
    return out


@torch.library.custom_op("regard::talking_heads_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    weights_bias: Tensor | None,
    scale: float,
) -> list[Tensor]:
    """Return the gradients of query, key, value, both mixes and, where there is one, the bias of the weights."""
    gradients = calls.empty_gradients(query, key, value, logits_mix, weights_mix, weights_bias)
    mixes = _mixes(logits_mix, weights_mix, weights_bias)
    collected = [None if mix is None else torch.zeros_like(mix) for mix in mixes]
    if out_gradient.numel():
        calls.call(
            "regard_talking_heads_backward",
            query.dtype,
            _problem(query, key, value, logits_mix, scale),
            calls.operands(query, key, value, out_gradient, *gradients[:3]),
            *map(calls.pointer, mixes),
            *map(calls.pointer, collected),
        )
    present = [sum_of_all for sum_of_all in collected if sum_of_all is not None]
    for gradient, sum_of_all in zip(gradients[3:], present, strict=True):
        gradient.copy_(sum_of_all)
    return gradients


def _empty_output(query: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:2], *value.shape[2:])


def _mixes(*mixes: Tensor | None) -> list[Tensor | None]:
    return [calls.table(mix) for mix in mixes]


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return _empty_output(query, value)


@_backward.register_fake
def _fake_backward(_: Tensor, *tensors: Any) -> list[Tensor]:  # noqa: ANN401
    return calls.empty_gradients(*tensors[:-1])


def _gradients(inputs: list[Any], out_gradient: Tensor) -> list[Tensor | None]:
    *tensors, logits_bias, weights_bias, scale = inputs
    gradients: list[Tensor | None] = [*_backward(out_gradient, *tensors, weights_bias, scale)]
    nothing = None if logits_bias is None else torch.zeros_like(logits_bias)  # it cancels in the softmax
    return [*gradients[:5], nothing, gradients[5] if weights_bias is not None else None, None]


register_gradients(_forward, _gradients, decompose)
_forward.register_vmap(map_entries(_forward))
_backward.register_vmap(map_entries(_backward))


@flop_formula(torch.ops.regard.talking_heads_attention)
def _forward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    query, key, value, logits_mix, weights_mix, *_ = shapes
    pairs = query[0] * query[1] * key[1]
    return 2 * pairs * (prod(query[2:]) + prod(value[2:]) + prod(logits_mix) + prod(weights_mix))


@flop_formula(torch.ops.regard.talking_heads_attention_backward)
def _backward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    """Count the products of the mathematics; the kernel makes those of the weights again."""
    _, query, key, value, logits_mix, weights_mix, *_ = shapes
    pairs = query[0] * query[1] * key[1]
    forward = 2 * prod(query[2:]) + 2 * prod(value[2:]) + 2 * prod(logits_mix) + 2 * prod(weights_mix)
    return 2 * pairs * (forward + prod(query[2:]) + prod(logits_mix))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "queries", "keys", "query_dim", "value_dim")),
        *((name, ctypes.c_int64) for name in ("key_heads", "heads", "value_heads", "threads")),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, key: Tensor, value: Tensor, logits_mix: Tensor, scale: float) -> _Problem:
    batch, queries, key_heads, query_dim = query.shape
    _, keys, value_heads, value_dim = value.shape
    heads = logits_mix.shape[0]
    sizes = (batch, queries, keys, query_dim, value_dim, key_heads, heads, value_heads)
    return _Problem(*sizes, torch.get_num_threads(), scale)
