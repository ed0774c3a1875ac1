"""Marks what `make test` leaves out, and prints the contract as a table of mechanism by check at the end of a run."""

import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from regard.attention import MECHANISMS
from selection import belongs, mark_repetition, share

# The same examples in every run, however busy the machine is.
settings.register_profile("regard", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("regard")

# These variables make typer and rich print colors into files.
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)

# The key of TorchInductor's cache lacks this variable, and code for another vector length corrupts memory.
if lowered := os.environ.get("ATEN_CPU_CAPABILITY"):
    folder = Path(tempfile.gettempdir()) / f"regard_inductor_{os.getuid()}_{lowered}"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)

# Workers share the processor. Threads of several OpenMP programs on the same cores wait for one another.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for programs that a test starts

CONTRACT = re.compile(r"attention/test_contract\.py::(?:\w+::)?test_(\w+)\[(?:torch\.)?(\w+?)[-\]]")


def pytest_addoption(parser):
    parser.addoption("--share", type=share, help="which part of the exhaustive tests, such as 1/4; default: all")


@pytest.hookimpl(tryfirst=True)  # before the marks are read
def pytest_collection_modifyitems(config, items):
    mark_repetition(items)
    part = config.getoption("--share")
    if part is not None:
        left = [item for item in items if item.get_closest_marker("exhaustive") and not belongs(item.nodeid, part)]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_terminal_summary(terminalreporter):
    counts = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if found := CONTRACT.search(report.nodeid):
                check, mechanism = found.groups()
                counts[check][mechanism][outcome == "failed"] += 1
    counts = {check: row for check, row in counts.items() if row.keys() & {m.name for m in MECHANISMS}}
    mechanisms = [m.name for m in MECHANISMS]
    if not counts:
        return
    terminalreporter.section("contract: calls passed (failed) by mechanism and check")
    width = max(map(len, mechanisms)) + 2
    terminalreporter.line(" " * 36 + "".join(name.rjust(width) for name in mechanisms))
    for check, row in sorted(counts.items()):
        cells = (f"{row[m][0]}" + (f" ({row[m][1]})" if row[m][1] else "") if m in row else "-" for m in mechanisms)
        terminalreporter.line(check.ljust(36) + "".join(cell.rjust(width) for cell in cells))
