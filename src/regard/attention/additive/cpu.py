"""The CPU kernel of additive attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from regard.attention._canceled import fill_canceled, with_canceled
from regard.attention._operator import Kernel
from regard.attention.additive.reference import Arguments
from regard.native import calls


def reasons(_: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return calls.library_reasons()


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`. The softmax cancels the biases of the scores, unless they are NaN or infinite."""
    weights = _scoring(query_weight, query_bias), _scoring(key_weight, key_bias)
    problem, operands = _problem(query, scale), calls.operands(*map(_side_by_side, (query, key, out)))
    calls.call("regard_additive_forward", query.dtype, problem, operands, *weights)


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients; those of the biases are zero, or NaN where their head's are."""
    grad_query, grad_key, *grad_weights = grads[:4]
    tokens = [_side_by_side(tensor) for tensor in (query, key, grad_out, grad_query, grad_key)]
    weights = _scoring(query_weight, query_bias), _scoring(key_weight, key_bias)
    totals = calls.sums(grad_weights)
    problem, operands = _problem(query, scale), calls.operands(*tokens)
    calls.call("regard_additive_backward", query.dtype, problem, operands, *weights, *totals)
    calls.store(totals, grad_weights)
    for grad_weight, grad_bias in zip(grad_weights, grads[4:6], strict=True):
        fill_canceled(grad_bias, grad_weight)


def _scoring(weight: Tensor, bias: Tensor | None) -> Tensor | None:
    return calls.parameter(with_canceled(weight, bias))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "head_dim", "threads")),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, scale: float) -> _Problem:
    batch, *grid, heads, head_dim = query.shape
    return _Problem(batch, torch.Size(grid).numel(), heads, head_dim, torch.get_num_threads(), scale)


def _side_by_side(tensor: Tensor) -> Tensor:
    """Merge heads and channels to one axis, `[B, N, 1, C]`; a tensor whose strides forbid it is copied."""
    return tensor.flatten(1, -3).flatten(2).unsqueeze(2)


KERNEL = Kernel(("cpu",), forward, backward, reasons)
