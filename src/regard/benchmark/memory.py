"""The memory that a call needs at its peak."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(call: Callable[[], object], device: str = "cpu") -> int | None:
    """Return the bytes by which a call raises this process's memory at its peak; None where the system cannot tell.

    On a GPU, PyTorch's allocator tells. On the CPU, Linux with glibc tells: what earlier calls have freed is given back
    to the system first, as far as it can be, so that this is a lower bound.

    Example:
        >>> peak_memory(lambda: torch.ones(10_000_000)) in (None, *range(39_000_000, 60_000_000))
        True
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - allocated
    before = _forget_peak()
    if before is None:
        return None
    call()
    peak = _field("VmHWM")
    return None if peak is None else max(0, peak - before)


def _forget_peak() -> int | None:
    """Give freed memory back to the system, and let its record of the peak begin anew; return what is in use now."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        FORGET.write_text("5")
    except (OSError, AttributeError, TypeError):  # another system, another C library
        return None
    return _field("VmRSS")


def _field(name: str) -> int | None:
    """Return a figure of this process's status, in bytes; None where the system does not have it."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
