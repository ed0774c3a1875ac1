"""The machine that figures belong to: its processor, its versions, its ceilings, and what other programs took of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from regard.attention import native_library
from regard.benchmark.race import on_device
from regard.timing import time_in_turn
from regard.training.devices import count_cores
from regard.training.versions import version

CPUINFO, STAT = Path("/proc/cpuinfo"), Path("/proc/stat")
SIDE = 1536
"""Of the square matrices; on a GPU `GPU_SIDE`."""
ELEMENTS = 16_777_216
"""Of the copied tensor: 64 MiB in float32, more than the caches of a CPU hold; on a GPU 16 times as many."""
GPU_SIDE, GPU_ELEMENTS = 8192, 16 * ELEMENTS


@dataclass(frozen=True)
class Machine:
    """The machine and its ceilings.

    Attributes:
        processor: name, family and model; of a GPU, what `gpu` says.
        instruction_set: of regard's CPU kernels, or "none".
        torch_capability: the instruction set of PyTorch's CPU kernels.
        cores: that this process may use.
        threads: of PyTorch.
        python: version, as the next three.
        torch: version.
        timm: version, or empty.
        regard: version.
        load: runnable threads in the last minute before the measurement; None where the system does not tell.
        flops: per second, of a large `torch.mm`: in float32 on CPUs, in bfloat16 on GPUs.
        bytes: per second, read and written by a copy.
    """

    processor: str
    instruction_set: str
    torch_capability: str
    cores: int
    threads: int
    python: str
    torch: str
    timm: str
    regard: str
    load: float | None
    flops: float
    bytes: float

    @classmethod
    def measure(cls, seconds: float = 1.0, device: str = "cpu") -> Machine:
        """Measure the ceilings."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        flops, speed = ceilings(seconds, device)
        return cls(**facts(device), load=load, flops=flops, bytes=speed)

    @property
    def columns(self) -> dict[str, str]:
        """The facts as text, for tables: everything but the figures of the moment."""
        return {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in MOMENTARY}

    def __str__(self) -> str:
        load = "" if self.load is None else f"; load {self.load:.1f}"
        return (
            f"{self.processor}, {self.cores} cores, {_plural(self.threads, 'thread')}; "
            f"library {self.instruction_set}; torch {self.torch} ({self.torch_capability}); "
            f"torch.mm {self.flops / 1e9:.0f} GFLOP/s; copy {self.bytes / 1e9:.1f} GB/s{load}"
        )


MOMENTARY = ("load", "flops", "bytes")


def facts(device: str = "cpu") -> dict[str, Any]:
    """Return what a machine is, by the names of the attributes of `Machine`."""
    return {
        "processor": processor() if device == "cpu" else gpu(device),
        "instruction_set": native_library().instruction_set or "none",
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": count_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm") or "",
        "regard": version("regard") or "",
    }


def ceilings(seconds: float, device: str = "cpu") -> tuple[float, float]:
    """Measure what a large product and a large copy reach: FLOP/s and bytes per second."""
    is_cpu = device == "cpu"
    side, elements = (SIDE, ELEMENTS) if is_cpu else (GPU_SIDE, GPU_ELEMENTS)
    left = torch.randn(side, side, device=device, dtype=torch.float32 if is_cpu else torch.bfloat16)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {
        "mm": on_device(lambda: torch.mm(left, left), device),
        "copy": on_device(lambda: target.copy_(source), device),
    }
    times = time_in_turn(calls, seconds)
    return 2 * side**3 / times["mm"].median, 2 * 4 * elements / times["copy"].median


def processor() -> str:
    """Return the processor's name; virtual machines often shorten it, so that family and model say which one it is."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{name.removeprefix('cpu ')} {found[name]}" for name in ("cpu family", "model") if name in found]
    if "model name" not in found:
        return platform.processor() or platform.machine()
    return found["model name"] + (f" ({', '.join(numbers)})" if numbers else "")


def gpu(device: str) -> str:
    """Return a GPU's name, with what its speed depends on and the versions that compile kernels for it."""
    found = torch.cuda.get_device_properties(device)
    platform_of_gpu = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return (
        f"{found.name} (compute capability {found.major}.{found.minor}, {found.multi_processor_count} multiprocessors, "
        f"{found.total_memory / 2**30:.0f} GiB, {platform_of_gpu}, Triton {version('triton') or 'missing'})"
    )


class Steal:
    """The share of the processors' time that a hypervisor gave to others since this object was made.

    Example:
        >>> share = Steal().share()
        >>> share is None or 0 <= share <= 1
        True
    """

    def __init__(self) -> None:
        self._begin = self._read()

    def share(self) -> float | None:
        """Return the share; None where the system does not tell."""
        end = self._read()
        if self._begin is None or end is None:
            return None
        stolen, total = (after - before for before, after in zip(self._begin, end, strict=True))
        return stolen / total if total else 0.0

    @staticmethod
    def _read() -> tuple[int, int] | None:
        """Return the stolen and the whole time of all processors since the start, in the system's ticks."""
        try:
            ticks = [int(word) for word in STAT.read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
