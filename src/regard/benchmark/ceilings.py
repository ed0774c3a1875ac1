"""What this machine can do at most, measured in the same run as everything else."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from regard.attention import native_library
from regard.timing import time_in_turn

SIDE = 1536
"""Of the square matrices."""
ELEMENTS = 16_777_216
"""Of the copied tensor: 64 MiB, more than the caches hold."""


@dataclass(frozen=True)
class Machine:
    """The machine and its ceilings.

    Attributes:
        processor: instruction sets in use: of regard's kernels and of PyTorch.
        threads: of PyTorch.
        torch: version.
        load: runnable threads in the last minute before the measurement; None where the system does not tell.
        flops: per second, of a float32 `torch.mm`.
        bytes: per second, read and written by a copy.
    """

    processor: str
    threads: int
    torch: str
    load: float | None
    flops: float
    bytes: float

    @classmethod
    def measure(cls, seconds: float = 1.0) -> Machine:
        """Measure the ceilings."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        left, source = torch.randn(SIDE, SIDE), torch.randn(ELEMENTS)
        target = torch.empty_like(source)
        times = time_in_turn({"mm": lambda: torch.mm(left, left), "copy": lambda: target.copy_(source)}, seconds)
        own = native_library().instruction_set
        return cls(
            f"regard {own if own else 'without kernels'}, PyTorch {torch.backends.cpu.get_cpu_capability()}",
            torch.get_num_threads(),
            torch.__version__,
            load,
            2 * SIDE**3 / times["mm"].median,
            2 * 4 * ELEMENTS / times["copy"].median,
        )

    def __str__(self) -> str:
        load = "" if self.load is None else f"; load {self.load:.1f}"
        return (
            f"{self.processor}; {self.threads} {'thread' if self.threads == 1 else 'threads'}; torch {self.torch}; "
            f"torch.mm {self.flops / 1e9:.0f} GFLOP/s; copy {self.bytes / 1e9:.1f} GB/s{load}"
        )
