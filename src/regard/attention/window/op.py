"""The CPU kernel of window attention as an operator of PyTorch: autograd, fake tensors, autocast, vmap, FLOPs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from regard.attention._flops import flop_formula
from regard.attention._native import calls
from regard.attention._transforms import cast_for_autocast, map_entries, register_gradients
from regard.attention.window import reference

MOST_TOKENS = 1024  # whose weights are held at once, a head and a thread


def unsupported_reasons(query: Tensor, value: Tensor, window: Sequence[int], dropout_p: float) -> list[str]:
    """Say why the kernel cannot serve a call with checked arguments; empty if it can."""
    reasons = calls.unsupported_reasons(query, value, dropout_p)
    if prod(window) > MOST_TOKENS:
        reasons.append(f"windows have more than {MOST_TOKENS} tokens")
    return reasons


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Call the operator with what the reference takes."""
    return _forward(*cast_for_autocast(query, key, value, bias), list(window), list(shift), scale)


def decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    shift: Sequence[int],
    scale: float,
) -> Tensor:
    """Do what the operator does with the reference."""
    return reference.window_attention(query, key, value, window, shift, bias, scale, 0.0)


@torch.library.custom_op("regard::window_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    shift: Sequence[int],
    scale: float,
) -> Tensor:
    """Return the output, `[B, *grid, nh, hd_v]`."""
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    table = calls.table(bias)  # named, so that it lives until the kernel has read it
    if out.numel():
        problem = _problem(query, value, window, shift, scale)
        operands = calls.operands(query, key, value, out)
        calls.call("regard_window_forward", query.dtype, problem, operands, calls.pointer(table))
    return out


@torch.library.custom_op("regard::window_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    shift: Sequence[int],
    scale: float,
) -> list[Tensor]:
    """Return the gradients of query, key, value and, where there is one, bias."""
    gradients = calls.empty_gradients(query, key, value, bias)
    table = calls.table(bias)
    table_gradient = None if table is None else torch.zeros_like(table)
    if out_gradient.numel():
        calls.call(
            "regard_window_backward",
            query.dtype,
            _problem(query, value, window, shift, scale),
            calls.operands(query, key, value, out_gradient, *gradients[:3]),
            calls.pointer(table),
            calls.pointer(table_gradient),
        )
    if table_gradient is not None:
        gradients[3].copy_(table_gradient)
    return gradients


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@_backward.register_fake
def _fake_backward(
    _: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *__: object
) -> list[Tensor]:
    return calls.empty_gradients(query, key, value, bias)


def _gradients(inputs: list[Any], out_gradient: Tensor) -> list[Tensor | None]:
    gradients = _backward(out_gradient, *inputs)
    return [*gradients, *[None] * (len(inputs) - len(gradients))]


register_gradients(_forward, _gradients, decompose)
_forward.register_vmap(map_entries(_forward))
_backward.register_vmap(map_entries(_backward))


@flop_formula(torch.ops.regard.window_attention)
def _forward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    query, _, value, _, window, *_ = shapes
    return 2 * prod(query[:-1]) * prod(window) * (query[-1] + value[-1])


@flop_formula(torch.ops.regard.window_attention_backward)
def _backward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    """Count the five products of the mathematics; the kernel makes one of them again."""
    _, query, _, value, _, window, *_ = shapes
    return 2 * prod(query[:-1]) * prod(window) * (3 * query[-1] + 2 * value[-1])


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "query_dim", "value_dim", "threads")),
        *((name, ctypes.c_int64 * 3) for name in ("length", "window", "shift")),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, value: Tensor, window: Sequence[int], shift: Sequence[int], scale: float) -> _Problem:
    sizes = (query.shape[0], query.shape[-2], query.shape[-1], value.shape[-1], torch.get_num_threads())
    lengths, windows = calls.per_axis(query.shape[1:-2], 1), calls.per_axis(window, 1)
    return _Problem(*sizes, lengths, windows, calls.per_axis(shift, 0), scale)
