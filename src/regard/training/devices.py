"""Find out which devices PyTorch can use on this machine, and whether other programs use the processor."""

from __future__ import annotations

import os

import torch

from regard.errors import OptionError, UnsupportedError

VENDORS = {"cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}
CPU = torch.device("cpu")


def default_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU if there is none."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return CPU if device is None else device


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    cores = os.cpu_count()
    return 1 if cores is None else cores


def describe_load(threads: int) -> str:
    """Return the cores, the load of the last minute if the system knows it, and advice if `threads` are too many.

    At the end of a parallel loop, threads spin until the last one is done. If other programs use all cores, they spin
    while the last one has no core: docs/guides/threads.md.
    """
    cores = count_cores()
    if not hasattr(os, "getloadavg"):
        return f"{cores}"
    load = os.getloadavg()[0]
    described = f"{cores}, load {load:.1f}"
    if threads > 1 and load >= cores:
        advice = "set OMP_NUM_THREADS=1 or, on Linux, GOMP_SPINCOUNT=1000"
        described += f": other programs use them, and threads wait for each other; {advice}"
    return described


def why_unavailable(device: str | None) -> str | None:
    """Return why PyTorch cannot use a type of device, or None if it can.

    Example:
        >>> why_unavailable("cpu") is None
        True
    """
    if device not in VENDORS:
        return None
    backend = torch.backends.mps if device == "mps" else getattr(torch, device)
    if backend.is_available():
        return None
    built_for = torch.accelerator.current_accelerator()
    if built_for is None or built_for.type != device:
        return f"{VENDORS[device]} is not available: PyTorch {torch.__version__} was built without it"
    return f"{VENDORS[device]} is not available: PyTorch finds no such device, or no driver for it"


def choose_device(name: str | None) -> torch.device:
    """Return the device of a name such as "cuda" or "cuda:1"; None for the machine's accelerator, else the CPU.

    Raises:
        OptionError: no name of a device.
        UnsupportedError: PyTorch cannot use the device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name is None:
        return default_device()
    kind, _, index = name.partition(":")
    if kind not in ("cpu", *VENDORS) or (index and not index.isdecimal()):
        raise OptionError.unknown("device", name, ("cpu", *VENDORS))
    if (problem := why_unavailable(kind)) is not None:
        raise UnsupportedError(f"expected a device that PyTorch can use, got {name!r}: {problem}; use --device cpu")
    return torch.device(name)
