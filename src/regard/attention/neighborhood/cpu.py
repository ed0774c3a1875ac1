"""The CPU kernel of neighborhood attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.neighborhood.reference import Arguments
from regard.native import calls


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return calls.head_reasons(arguments.query, arguments.value)


def forward(
    out: Tensor,
    lse: Tensor,
    rest: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the output and the statistics: the log-sum-exps, and zeros."""
    problem = _problem(query, value, kernel_size, dilation, stride, is_causal, scale)
    operands = calls.operands(query, key, value, out)
    calls.call("regard_neighborhood_forward", query.dtype, problem, operands, calls.parameter(bias), lse)
    rest.zero_()


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    rest: Tensor,
) -> None:
    """Fill the gradients of query, key, value and bias; they need neither `out` nor `rest`."""
    grad_query, grad_key, grad_value, *_, grad_bias, _ = grads
    problem = _problem(query, value, kernel_size, dilation, stride, is_causal, scale)
    operands = calls.operands(query, key, value, grad_out, grad_query, grad_key, grad_value)
    statistics = lse.new_empty(2, *lse.shape)
    totals = calls.sums([grad_bias])
    table = calls.parameter(bias)
    calls.call("regard_neighborhood_backward", query.dtype, problem, operands, table, lse, statistics, *totals)
    calls.store(totals, [grad_bias])


class _Axis(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("length", "kernel", "dilation", "stride", "is_causal"))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "query_dim", "value_dim", "threads")),
        ("axes", _Axis * 3),
        ("scale", ctypes.c_double),
    )


def _problem(
    query: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> _Problem:
    axes = list(map(_Axis, query.shape[1:-2], kernel_size, dilation, stride, is_causal))
    missing = [_Axis(1, 1, 1, 1, 0)] * (3 - len(axes))
    sizes = (query.shape[0], query.shape[-2], query.shape[-1], value.shape[-1], torch.get_num_threads())
    return _Problem(*sizes, (_Axis * 3)(*missing, *axes), scale)


KERNEL = Kernel(("cpu",), forward, backward, reasons)
