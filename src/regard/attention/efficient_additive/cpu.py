"""The CPU kernel of efficient additive attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.efficient_additive.reference import Arguments
from regard.native import calls

NORMS = ("softmax", "l2", "ones")  # in cpu.cpp's order


def reasons(_: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return calls.library_reasons()


def forward(
    out: Tensor, unit_query: Tensor, query: Tensor, key: Tensor, weight: Tensor, token_norm: str, scale: float
) -> None:
    """Fill the context on the unit keys and the unit queries."""
    problem, operands = _problem(query, token_norm, scale), _operands(query, key, out, unit_query)
    calls.call("regard_efficient_additive_forward", query.dtype, problem, operands, calls.parameter(weight))


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    grad_unit_query: Tensor,
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    token_norm: str,
    scale: float,
) -> None:
    """Fill the gradients of query, key and weight."""
    grad_query, grad_key, grad_weight, *_ = grads
    problem = _problem(query, token_norm, scale)
    operands = _operands(query, key, grad_out, grad_unit_query, grad_query, grad_key)
    totals = calls.sums([grad_weight])
    calls.call("regard_efficient_additive_backward", query.dtype, problem, operands, calls.parameter(weight), *totals)
    calls.store(totals, [grad_weight])


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "channels", "threads", "token_norm")),
        *((name, ctypes.c_double) for name in ("scale", "smallest")),
    )


def _problem(query: Tensor, token_norm: str, scale: float) -> _Problem:
    smallest = max(1e-12, torch.finfo(query.dtype).smallest_normal)  # as the reference clamps norms
    batch, *grid, channels = query.shape
    norm = NORMS.index(token_norm)
    return _Problem(batch, torch.Size(grid).numel(), channels, torch.get_num_threads(), norm, scale, smallest)


def _operands(*tensors: Tensor) -> calls.Operands:
    return calls.operands(*(tensor.flatten(1, -2).unsqueeze(-2) for tensor in tensors))  # [B, N, 1, C]


KERNEL = Kernel(("cpu",), forward, backward, reasons)
