"""What the benchmarks share: times, memory, bars, and the error budgets of the tests."""

import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

from regard.attention import native_library

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for `budget` and `attention.oracle`

ROUNDS = 15
SIDE = 2048  # of the matrix product that kernels are compared with


def medians(*calls, rounds=ROUNDS):
    """Return the median seconds of each call. The calls take turns, so that a noisy machine treats them alike.

    Each turn begins with an untimed call, since the call before has left its own data in the caches.
    """
    seconds = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            call()
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in seconds]


def ratio(before, after, rounds=ROUNDS):
    """Return the median seconds of two calls that take turns, and the median of the ratios of their times.

    On one thread these are seconds of the processor, which other programs hardly disturb.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    pairs = []
    for place in range(rounds + 1):
        turn = ((0, before), (1, after))
        seconds = [0.0, 0.0]
        for which, call in turn if place % 2 else reversed(turn):
            begin = clock()
            call()
            seconds[which] = clock() - begin
        pairs.append(seconds)
    old, new = zip(*pairs[1:], strict=True)  # the first turn warms up
    return statistics.median(old), statistics.median(new), statistics.median(map(float.__truediv__, old, new))


def processor():
    """Return the processor's name, and the instruction set of the kernels."""
    facts = {}
    if Path("/proc/cpuinfo").is_file():
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        facts = {key.strip(): value.strip() for key, value in reversed(lines)}
    name = facts.get("model name", platform.processor() or platform.machine())
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return f"{name}{family}, {native_library().instruction_set or 'no library'}"


def product():
    """Return a call of a large float32 `torch.mm`."""
    left = torch.randn(SIDE, SIDE)
    return partial(torch.mm, left, left)


def product_rate(rounds=ROUNDS):
    """Return the FLOP/s of that product."""
    (seconds,) = medians(product(), rounds=rounds)
    return 2 * SIDE**3 / seconds


def milliseconds(seconds):
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def bar_cell(bar, is_met):
    """Return a table's cell for a bar, which says when it is missed."""
    return "" if bar is None else f"{bar}" if is_met else f"{bar}  missed"


def peak_memory(call):
    """Return the bytes by which a call raises this process's memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
