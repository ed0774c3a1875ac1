"""Launch Triton kernels on PyTorch's tensors, and say where none can run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

DEVICES = ("cuda", "xpu")  # the device types that Triton serves; PyTorch's name for AMD's GPUs is "cuda" too
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
MAX_FLOAT32_PART = 32  # channels of float32 that a kernel takes at a time
MIN_COMPUTE_CAPABILITY = 8  # the major one from which Triton supports NVIDIA's GPUs
MIN_TRITON = (3, 5)  # the first version whose kernels take tuples as these do
MAX_COMPILED = 4096  # forms kept per file; when there are more, all are forgotten


def _triton_version() -> tuple[int, int] | None:
    """Read Triton's version from its source file, since importing Triton is slow; None without Triton."""
    found = find_spec("triton")
    if found is None or found.origin is None:
        return None
    version = re.search(r"""__version__ = ['"](\d+)\.(\d+)""", Path(found.origin).read_text())
    return (int(version[1]), int(version[2])) if version else (0, 0)


TRITON = _triton_version()  # a constant, since torch.compile follows `reasons`

Argument: TypeAlias = "Tensor | int | float | Sequence[int] | None"
Constant: TypeAlias = "int | bool | str | tuple[Constant, ...]"


def reasons(tensor: Tensor) -> list[str]:
    """Return the reasons why no Triton kernel can run on a tensor like this; empty if one can."""
    found = triton_reasons()
    if tensor.dtype not in DTYPES:
        found.append(f"the GPU kernels serve float32, bfloat16 and float16, not {tensor.dtype}")
    if tensor.device.type == "cuda" and not torch.version.hip:
        major = torch.cuda.get_device_properties(tensor.device).major
        if major < MIN_COMPUTE_CAPABILITY:
            found.append(f"Triton needs compute capability {MIN_COMPUTE_CAPABILITY}.0, and this GPU's is {major}.x")
    return found


def triton_reasons() -> list[str]:
    """Return what is wrong with the installed Triton; empty if nothing is."""
    if TRITON is None:
        return ["Triton is not installed; install it with: pip install triton"]
    if TRITON < MIN_TRITON:
        return [f"the GPU kernels need Triton {dotted(MIN_TRITON)} or newer, got {dotted(TRITON)}; upgrade PyTorch"]
    return []


def dotted(version: tuple[int, int] | None) -> str:
    """Write a version."""
    return ".".join(map(str, version or ()))


def head_reasons(*tensors: Tensor) -> list[str]:
    """Return the reasons why no Triton kernel serves tensors with heads, `[..., hd]`; empty if one does."""
    found = reasons(tensors[0])
    if max(tensor.shape[-1] for tensor in tensors) > MAX_HEAD_DIM:
        found.append(f"heads have more than {MAX_HEAD_DIM} channels")
    return found


class Kernels:
    """The kernels of one file, which is imported when the first of them is launched.

    Args:
        module: the file, as an import names it.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self._compiled: dict[tuple[object, ...], tuple[Any, tuple[Constant, ...]]] = {}

    def launch(self, name: str, programs: int, *arguments: Argument, **constants: Constant) -> None:
        """Launch a kernel on the device and the current stream of its first argument.

        Triton derives from every argument which compiled form serves, in Python, at every launch. That can take longer
        than the kernel, so the form is kept for arguments of the same values and alignment.

        Args:
            name: of the kernel in its file.
            programs: how many run; none if 0.
            arguments: in the kernel's order, the first a tensor. None is a missing tensor, a sequence a tuple.
            constants: what is compiled into the kernel, after its arguments, and Triton's own options: `num_warps`.
        """
        if not programs:
            return
        given = [tuple(one) if isinstance(one, list) else one for one in arguments]
        tensor = given[0]
        assert isinstance(tensor, Tensor)
        if tensor.device.type == "cpu":  # Triton's interpreter
            self._kernel(name)[(programs,)](*given, **constants)
            return
        key = (name, tensor.device, *map(_form, given), *constants.values())
        compiled, rest = self._compiled.get(key, (None, ()))
        with getattr(torch, tensor.device.type).device_of(tensor):
            if compiled is not None:
                compiled[(programs, 1, 1)](*given, *rest)
                return
            kernel = self._kernel(name)
            compiled = kernel[(programs,)](*given, **constants)
        rest = tuple(constants[parameter.name] for parameter in kernel.params[len(given) :])
        if len(self._compiled) >= MAX_COMPILED:
            self._compiled.clear()
        self._compiled[key] = compiled, rest

    def _kernel(self, name: str) -> Any:  # noqa: ANN401  # Triton's types are unknown until it is imported
        return getattr(import_module(self.module), name)


def _form(argument: Argument) -> object:
    """Return all that a compiled form depends on, and for numbers more than that: their values."""
    return (argument.dtype, argument.data_ptr() % 16) if isinstance(argument, Tensor) else argument


def architecture(tensor: Tensor) -> str:
    """Return the kind of processor that tiles are chosen for: "sm_90", "sm_80" or "gfx942".

    The first has tensor cores that read shared memory, and twice the shared memory of the second, which stands for all
    GPUs that are no other kind. The third is AMD's. Triton's interpreter is taken for the first.
    """
    if tensor.device.type == "cpu":
        return "sm_90"
    if torch.version.hip:
        return "gfx942"
    is_cuda = tensor.device.type == "cuda"
    major = torch.cuda.get_device_capability(tensor.device)[0] if is_cuda else 0
    return "sm_90" if major in (9, 10) else "sm_80"


def precision(tensor: Tensor) -> str:
    """Return Triton's precision for products of float32: exact, unless PyTorch is set to allow TF32."""
    if tensor.dtype != torch.float32 or _may_round():
        return "tf32"
    return "ieee" if tensor.device.type != "cuda" or torch.version.hip else "tf32x3"


def _may_round() -> bool:
    """Return whether PyTorch may round the factors of products of float32."""
    setting: str | None = getattr(torch.backends.cuda.matmul, "fp32_precision", None)  # since PyTorch 2.9
    if setting is None:
        return torch.get_float32_matmul_precision() != "highest"
    return setting == "tf32"


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of `[B, *grid, nh, hd]`: batch, three grid axes (missing ones first), head, channel."""
    batch, *rest = tensor.stride()
    return batch, *[0] * (5 - len(rest)), *rest


def per_axis(values: Sequence[int], missing: int) -> tuple[int, ...]:
    """Return three numbers, one per grid axis, missing axes first."""
    return *[missing] * (3 - len(values)), *values


def is_large(*tensors: Tensor) -> bool:
    """Return whether offsets inside these tensors, or contiguous tensors of their shapes, may need 64 bits."""
    return any(max(one.untyped_storage().nbytes() // one.element_size(), one.numel()) >= 2**31 for one in tensors)


def sizes(channels: int, max_width: int = MAX_HEAD_DIM) -> tuple[int, ...]:
    """Return a head's channels, then the widths of the parts that a kernel takes them in.

    Widths are powers of 2, from 16, and all but the last are equal. 72 channels are 64 + 16, not 128, since tensor
    cores multiply what pads them too.

    Args:
        channels: of a head.
        max_width: of a part.

    Example:
        >>> sizes(72), sizes(72, max_width=32), sizes(48, max_width=16)
        ((72, 64, 16), (72, 32, 32, 16), (48, 16, 16, 16))
    """
    whole = max(16, 1 << (channels - 1).bit_length())
    first = min(whole, max_width)
    if first == whole and whole >= 64 and whole // 2 + _rest(channels, whole // 2) < whole:
        first = whole // 2
    equal = (channels - 1) // first if channels > first else 0
    return channels, *[first] * equal, _rest(channels, equal * first)


def _rest(channels: int, covered: int) -> int:
    """Return the width of the part that has the channels which others have not."""
    return max(16, 1 << max(channels - covered - 1, 0).bit_length())


def rows(dtype: torch.dtype, query_dim: int, value_dim: int) -> dict[str, Constant]:
    """Return the constants that say how kernels take rows of queries and keys, and of values: see triton_tiles.py."""
    max_width = MAX_FLOAT32_PART if dtype == torch.float32 else MAX_HEAD_DIM
    return {
        "SIZES": sizes(query_dim, max_width),
        "VALUE_SIZES": sizes(value_dim, max_width),
        "KEEP": dtype != torch.float32,
    }


def multiprocessors(tensor: Tensor) -> int:
    """Return how many programs' worth of hardware a tensor's device has."""
    if tensor.device.type == "cpu":  # Triton's interpreter
        return 1
    properties = torch.get_device_module(tensor.device).get_device_properties(tensor.device)
    return getattr(properties, "multi_processor_count", None) or properties.max_compute_units


def parameter(tensor: Tensor | None) -> Tensor | None:
    """Return a bias, mix or weight as kernels read it: contiguous float32."""
    return None if tensor is None else tensor.float().contiguous()
