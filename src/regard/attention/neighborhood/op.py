"""The CPU kernel of neighborhood attention as an operator of PyTorch: autograd, fake tensors, autocast, vmap, FLOPs."""

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
from regard.attention.neighborhood import reference
from regard.attention.neighborhood.reference import Axis


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, axes: Sequence[Axis], bias: Tensor | None, scale: float
) -> Tensor:
    """Call the operator with what the reference takes."""
    kernel_size, dilation, stride, is_causal = map(list, zip(*axes, strict=True))
    tensors = cast_for_autocast(query, key, value, bias)
    return _forward(*tensors, kernel_size, dilation, stride, is_causal, scale)[0]


def decompose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Do what the operator does with the reference; nobody reads the log-sum-exps there."""
    axes = [Axis(*options) for options in zip(kernel_size, dilation, stride, is_causal, strict=True)]
    out = reference.neighborhood_attention(query, key, value, axes, bias, scale, 0.0)
    return out, query.new_zeros(query.shape[:-1], dtype=calls.statistics_dtype(query))


@torch.library.custom_op("regard::neighborhood_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exps, `[B, *grid, nh]`."""
    out, lse = _outputs(query, value)
    table = calls.table(bias)  # named, so that it lives until the kernel has read it
    if out.numel():
        calls.call(
            "regard_neighborhood_forward",
            query.dtype,
            _problem(query, value, kernel_size, dilation, stride, is_causal, scale),
            calls.operands(query, key, value, out),
            calls.pointer(table),
            calls.pointer(lse),
        )
    return out, lse


@torch.library.custom_op("regard::neighborhood_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    out_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    lse: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> list[Tensor]:
    """Return the gradients of query, key, value and, where there is one, bias."""
    gradients = calls.empty_gradients(query, key, value, bias)
    table = calls.table(bias)
    table_gradient = None if table is None else torch.zeros_like(table)
    statistics = lse.new_empty(2, *lse.shape)
    if out_gradient.numel():
        calls.call(
            "regard_neighborhood_backward",
            query.dtype,
            _problem(query, value, kernel_size, dilation, stride, is_causal, scale),
            calls.operands(query, key, value, out_gradient, *gradients[:3]),
            calls.pointer(table),
            calls.pointer(lse),
            calls.pointer(statistics),
            calls.pointer(table_gradient),
        )
    if table_gradient is not None:
        gradients[3].copy_(table_gradient)
    return gradients


def _outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    return out, query.new_empty(query.shape[:-1], dtype=calls.statistics_dtype(query))


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _outputs(query, value)


@_backward.register_fake
def _fake_backward(
    _: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *__: object
) -> list[Tensor]:
    return calls.empty_gradients(query, key, value, bias)


def _gradients(inputs: list[Any], out_gradient: Tensor, lse: Tensor) -> list[Tensor | None]:
    gradients = _backward(out_gradient, *inputs[:4], lse, *inputs[4:])
    return [*gradients, *[None] * (len(inputs) - len(gradients))]


register_gradients(_forward, _gradients, decompose, statistics=True)


@_forward.register_vmap
def _map(info: Any, in_dims: Any, *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:  # noqa: ANN401
    """Fold the mapped dimension into the batch; a mapped bias has a call of its own for every entry."""
    *tensors, bias = (t if dim is None else t.movedim(dim, 0) for t, dim in zip(inputs[:4], in_dims[:4], strict=True))
    count, options = info.batch_size, inputs[4:]
    tensors = [t.expand(count, *t.shape) if dim is None else t for t, dim in zip(tensors, in_dims, strict=False)]
    if in_dims[3] is None:
        out, lse = _forward(*(tensor.flatten(0, 1) for tensor in tensors), bias, *options)
        batch = tensors[0].shape[1]
        return (out.unflatten(0, (count, batch)), lse.unflatten(0, (count, batch))), (0, 0)
    results = [_forward(*one, *options) for one in zip(*tensors, bias, strict=True)]
    out, lse = map(torch.stack, zip(*results, strict=True))
    return (out, lse), (0, 0)


_backward.register_vmap(map_entries(_backward))  # a bias gradient is a sum over a batch: entries must not mix


@flop_formula(torch.ops.regard.neighborhood_attention)
def _forward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    query, _, value, _, kernel_size, *_ = shapes
    return 2 * prod(query[:-1]) * prod(kernel_size) * (query[-1] + value[-1])


@flop_formula(torch.ops.regard.neighborhood_attention_backward)
def _backward_flops(*shapes: Any, **__: Any) -> int:  # noqa: ANN401
    """Count the five products of the mathematics; the kernel makes two of them twice."""
    _, query, _, value, _, _, kernel_size, *_ = shapes
    return 2 * prod(query[:-1]) * prod(kernel_size) * (3 * query[-1] + 2 * value[-1])


class _Axis(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("length", "kernel", "dilation", "stride", "is_causal"))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "query_dim", "value_dim", "threads")),
        ("axes", _Axis * 3),
        ("scale", ctypes.c_double),
    )


def _problem(query: Tensor, value: Tensor, *options: Any) -> _Problem:  # noqa: ANN401
    *per_axis, scale = options
    axes = list(zip(query.shape[1:-2], *per_axis, strict=True))
    missing = [(1, 1, 1, 1, 0)] * (3 - len(axes))
    sizes = (query.shape[0], query.shape[-2], query.shape[-1], value.shape[-1], torch.get_num_threads())
    return _Problem(*sizes, (_Axis * 3)(*(_Axis(*axis) for axis in (*missing, *axes))), scale)
