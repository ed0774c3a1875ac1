"""What the figures of a benchmark depend on: the processor, the library of kernels, threads and versions."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from regard.attention import native_library
from regard.training.devices import count_cores

CPUINFO = Path("/proc/cpuinfo")


def processor():
    """Return the processor's name; virtual machines often shorten it, so that family and model say which one it is."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{name.removeprefix('cpu ')} {fields[name]}" for name in ("cpu family", "model") if name in fields]
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return fields["model name"] + (f" ({', '.join(numbers)})" if numbers else "")


def load():
    """Return the average number of runnable threads in the last minute: far from 0, other programs disturb."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def installed(package):
    """Return the version of a package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def facts():
    """Return the facts, in the columns of the results' table."""
    return {
        "processor": processor(),
        "instruction_set": native_library().instruction_set or "none",
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(count_cores()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": installed("timm"),
        "regard": installed("regard"),
    }


def described(found, rate):
    """Return one line about the machine; `rate` is the FLOP/s of a large `torch.mm`."""
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads; "
        f"library {found['instruction_set']}; torch {found['torch']} ({found['torch_capability']}); "
        f"torch.mm {rate / 1e9:.0f} GFLOP/s; load {load()}"
    )
