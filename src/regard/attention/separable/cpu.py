"""The CPU kernel of separable attention: cpu.cpp's functions, called on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.separable.reference import Arguments
from regard.native import calls


def reasons(_: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return calls.library_reasons()


def forward(out: Tensor, query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int]) -> None:
    """Fill `out`."""
    problem, operands = _problem(key, value, patch_size), _operands(query, key, value, out)
    calls.call("regard_separable_forward", key.dtype, problem, operands)


def backward(
    grads: list[Tensor], grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int]
) -> None:
    """Fill the gradients of query, key and value."""
    problem, operands = _problem(key, value, patch_size), _operands(query, key, value, grad_out, *grads[:3])
    calls.call("regard_separable_backward", key.dtype, problem, operands)


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "channels", "threads")),
        *((name, ctypes.c_int64 * 3) for name in ("keys", "values", "patch")),
    )


def _problem(key: Tensor, value: Tensor, patch_size: Sequence[int]) -> _Problem:
    grids = (key.shape[1:-1], value.shape[1:-1], patch_size)
    sizes = (key.shape[0], key.shape[-1], torch.get_num_threads())
    return _Problem(*sizes, *(calls.per_axis(grid, 1) for grid in grids))


def _operands(*tensors: Tensor) -> calls.Operands:
    return calls.operands(*(tensor.flatten(1, -2).unsqueeze(-2) for tensor in tensors))  # [B, N, 1, C]


KERNEL = Kernel(("cpu",), forward, backward, reasons)
