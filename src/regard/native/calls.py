"""Call the compiled kernels: from PyTorch's tensors to the C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from regard.native import loader

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # as in tensors.h
MAX_HEAD_DIM = 256


class Operand(ctypes.Structure):
    """A tensor's data and its strides: batch, three grid axes, head, channel."""

    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 6))


class Operands(NamedTuple):
    """Described tensors, which live as long as their description."""

    array: ctypes.Array[Operand]
    tensors: tuple[Tensor, ...]


Argument: TypeAlias = "Tensor | Operands | ctypes.Structure | None"


def library_reasons() -> list[str]:
    """Return the reason why this process has no native library; empty if it has one."""
    return [loader.NATIVE.problem] if loader.NATIVE.problem else []


def head_reasons(*tensors: Tensor) -> list[str]:
    """Return the reasons why the kernels cannot serve tensors with heads, `[..., hd]`; empty if they can."""
    reasons = library_reasons()
    if max(tensor.shape[-1] for tensor in tensors) > MAX_HEAD_DIM:
        reasons.append(f"heads have more than {MAX_HEAD_DIM} channels")
    return reasons


def call(function: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Call a kernel.

    Args:
        function: the exported name.
        dtype: of the operands.
        arguments: in the C function's order. Tensors are contiguous and of `statistics_dtype`; None is a null pointer.

    Raises:
        RuntimeError: this process has no native library, as where a compiled program came from elsewhere.
        MemoryError: the kernel could not allocate its scratch memory.
    """
    if loader.NATIVE.library is None:
        raise RuntimeError(loader.NATIVE.problem)
    if loader.NATIVE.library[function](ctypes.c_int64(DTYPES[dtype]), *map(_to_c, arguments)):
        raise MemoryError(f"{function} could not allocate its scratch memory; use smaller batches or windows")


def _to_c(argument: Argument) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    return argument.array if isinstance(argument, Operands) else ctypes.byref(argument)


def operands(*tensors: Tensor) -> Operands:
    """Describe tensors `[B, *grid, nh, hd]` of any strides; missing grid axes come first."""

    def operand(tensor: Tensor) -> Operand:
        batch, *rest = tensor.stride()
        return Operand(tensor.data_ptr(), (ctypes.c_int64 * 6)(batch, *[0] * (5 - len(rest)), *rest))

    return Operands((Operand * len(tensors))(*map(operand, tensors)), tensors)


def per_axis(values: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int64]:
    """Return three numbers, one per grid axis, missing axes first."""
    return (ctypes.c_int64 * 3)(*[missing] * (3 - len(values)), *values)


def statistics_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that kernels compute in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def parameter(tensor: Tensor | None) -> Tensor | None:
    """Return a bias, mix or weight as kernels read it: contiguous, in the dtype that they compute in."""
    return None if tensor is None else tensor.to(statistics_dtype(tensor)).contiguous()


def sums(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return zeros, in the dtype that kernels compute in, to which a kernel adds the gradients of parameters."""
    return [
        None if grad is None else torch.zeros(grad.shape, dtype=statistics_dtype(grad), device=grad.device)
        for grad in grads
    ]


def store(totals: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Round the collected gradients of parameters to the gradients' own dtype."""
    for total, grad in zip(totals, grads, strict=True):
        if total is not None and grad is not None:
            grad.copy_(total)
