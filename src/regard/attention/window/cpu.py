"""The CPU kernel of window attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.window.reference import Arguments
from regard.native import calls

MAX_TOKENS = 1024  # per window: a thread holds the weights of one window and head


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    found = calls.head_reasons(arguments.query, arguments.value)
    if prod(arguments.window_size) > MAX_TOKENS:
        found.append(f"windows have more than {MAX_TOKENS} tokens")
    return found


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`."""
    problem = _problem(query, value, window_size, shift_size, scale)
    operands = calls.operands(query, key, value, out)
    calls.call("regard_window_forward", query.dtype, problem, operands, calls.parameter(bias))


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients of query, key, value and bias."""
    grad_query, grad_key, grad_value, _, _, grad_bias, _ = grads
    problem = _problem(query, value, window_size, shift_size, scale)
    operands = calls.operands(query, key, value, grad_out, grad_query, grad_key, grad_value)
    totals = calls.sums([grad_bias])
    calls.call("regard_window_backward", query.dtype, problem, operands, calls.parameter(bias), *totals)
    calls.store(totals, [grad_bias])


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "query_dim", "value_dim", "threads")),
        *((name, ctypes.c_int64 * 3) for name in ("length", "window", "shift")),
        ("scale", ctypes.c_double),
    )


def _problem(
    query: Tensor, value: Tensor, window_size: Sequence[int], shift_size: Sequence[int], scale: float
) -> _Problem:
    sizes = (query.shape[0], query.shape[-2], query.shape[-1], value.shape[-1], torch.get_num_threads())
    lengths, windows = calls.per_axis(query.shape[1:-2], 1), calls.per_axis(window_size, 1)
    return _Problem(*sizes, lengths, windows, calls.per_axis(shift_size, 0), scale)


KERNEL = Kernel(("cpu",), forward, backward, reasons)
