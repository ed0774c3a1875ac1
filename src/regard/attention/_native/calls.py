"""Calling the compiled kernels: what every operator needs between PyTorch's tensors and the C interface."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from regard.attention._native import loader
from regard.attention._transforms import untraceable_reasons

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # as in tensors.h
WIDEST_HEAD = 256


class Operand(ctypes.Structure):
    """A tensor's data and its strides: batch, three grid axes, head, channel."""

    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 6))


def native_reasons(tensor: Tensor, dropout_p: float = 0.0) -> list[str]:
    """Say why no kernel can serve a call with such tensors; empty if one may."""
    reasons = []
    if tensor.device.type != "cpu":
        reasons.append(f"the kernel runs on the CPU, and the tensors are on {tensor.device}")
    elif loader.NATIVE.problem:
        reasons.append(loader.NATIVE.problem)
    if dropout_p > 0:
        reasons.append("the kernel has no dropout of attention weights")
    return reasons + untraceable_reasons()


def unsupported_reasons(query: Tensor, value: Tensor, dropout_p: float) -> list[str]:
    """Say the same of queries and values with heads, `[..., hd]`."""
    reasons = native_reasons(query, dropout_p)
    if max(query.shape[-1], value.shape[-1]) > WIDEST_HEAD:
        reasons.append(f"heads have more than {WIDEST_HEAD} channels")
    return reasons


def call(function: str, dtype: torch.dtype, problem: ctypes.Structure, *pointers: Any) -> None:  # noqa: ANN401
    """Call a kernel.

    Raises:
        RuntimeError: there is no library, as where a compiled program has come from another machine.
        MemoryError: the kernel could not get its scratch memory.
    """
    if loader.NATIVE.library is None:
        raise RuntimeError(loader.NATIVE.problem)
    if loader.NATIVE.library[function](ctypes.c_int64(DTYPES[dtype]), ctypes.byref(problem), *pointers):
        raise MemoryError(f"{function} needs more memory than there is; use smaller batches or windows")


def operands(*tensors: Tensor) -> ctypes.Array[Operand]:
    """Describe tensors `[B, *grid, nh, hd]`, whatever their strides; missing grid axes come first."""

    def operand(tensor: Tensor) -> Operand:
        batch, *rest = tensor.stride()
        return Operand(tensor.data_ptr(), (ctypes.c_int64 * 6)(batch, *[0] * (5 - len(rest)), *rest))

    return (Operand * len(tensors))(*map(operand, tensors))


def per_axis(values: Any, missing: int) -> ctypes.Array[ctypes.c_int64]:  # noqa: ANN401
    """Give three numbers, one per grid axis, missing axes first."""
    return (ctypes.c_int64 * 3)(*[missing] * (3 - len(values)), *values)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Point to a contiguous tensor's data; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def statistics_dtype(tensor: Tensor) -> torch.dtype:
    """Return what kernels compute in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def table(bias: Tensor | None) -> Tensor | None:
    """Make a bias what kernels read: contiguous, of the dtype that they compute in."""
    return None if bias is None else bias.to(statistics_dtype(bias)).contiguous()


def empty_gradients(*tensors: Tensor | None) -> list[Tensor]:
    """Make room for the gradients of the tensors that there are."""
    return [tensor.new_empty(tensor.shape) for tensor in tensors if tensor is not None]
