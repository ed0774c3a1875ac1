"""The CPU kernel of talking-heads attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from regard.attention._canceled import fill_canceled, with_canceled
from regard.attention._operator import Kernel
from regard.attention.talking_heads.reference import Arguments
from regard.native import calls


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return calls.head_reasons(arguments.query, arguments.value)


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`. The softmax cancels the bias of the logits, unless that is NaN or infinite."""
    logits_mix = with_canceled(logits_mix, logits_bias)
    query, key, value, out = map(_tokens, (query, key, value, out))
    problem = _problem(query, value, logits_mix, scale)
    mixes = map(calls.parameter, (logits_mix, weights_mix, weights_bias))
    calls.call("regard_talking_heads_forward", query.dtype, problem, calls.operands(query, key, value, out), *mixes)


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients; that of the logits' bias is zero, or NaN where its head's are."""
    grad_logits_mix, grad_weights_mix, grad_logits_bias, grad_weights_bias, _ = grads[3:]
    logits_mix = with_canceled(logits_mix, logits_bias)
    query, key, value, grad_out, *grad_tokens = map(_tokens, (query, key, value, grad_out, *grads[:3]))
    problem = _problem(query, value, logits_mix, scale)
    operands = calls.operands(query, key, value, grad_out, *grad_tokens)
    mixes = map(calls.parameter, (logits_mix, weights_mix, weights_bias))
    totals = calls.sums([grad_logits_mix, grad_weights_mix, grad_weights_bias])
    calls.call("regard_talking_heads_backward", query.dtype, problem, operands, *mixes, *totals)
    calls.store(totals, [grad_logits_mix, grad_weights_mix, grad_weights_bias])
    fill_canceled(grad_logits_bias, grad_logits_mix)


def _tokens(tensor: Tensor) -> Tensor:
    return tensor.flatten(1, -3)  # [B, N, nh, hd]; a view of what is allocated here


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "queries", "keys", "query_dim", "value_dim")),
        *((name, ctypes.c_int64) for name in ("key_heads", "heads", "value_heads", "threads")),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, value: Tensor, logits_mix: Tensor, scale: float) -> _Problem:
    batch, queries, key_heads, query_dim = query.shape
    _, keys, value_heads, value_dim = value.shape
    sizes = (batch, queries, keys, query_dim, value_dim, key_heads, logits_mix.shape[0], value_heads)
    return _Problem(*sizes, torch.get_num_threads(), scale)


KERNEL = Kernel(("cpu",), forward, backward, reasons)
