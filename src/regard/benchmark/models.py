"""Whole models of regard and timm in all runtimes, each row in a process of its own.

A row that crashes or takes too long has the reason in its `error` column; the others go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from regard.benchmark.machine import facts
from regard.benchmark.results import CASE, Results, Row
from regard.benchmark.runtimes import RUNTIMES
from regard.errors import OptionError
from regard.extras import require
from regard.models import MODELS

LIBRARIES = ("timm", "regard")
MODULE = "regard.benchmark.row"


def cases(
    patterns: Sequence[str], libraries: Sequence[str], runtimes: Sequence[str], batches: Sequence[int]
) -> list[Row]:
    """Return the cases that the filters select, the rows of one model next to each other.

    Raises:
        OptionError: an unknown library or runtime, a pattern that selects no model, a batch size below 1, or models
            that none of the libraries has.
    """
    for kind, words, known in (("library", libraries, LIBRARIES), ("runtime", runtimes, tuple(RUNTIMES))):
        for word in words:
            if word not in known:
                raise OptionError.unknown(kind, word, known)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in MODELS):
            raise OptionError.unknown("model", pattern, MODELS)
    if min(batches) < 1:
        raise OptionError(f"batch sizes must be at least 1, got {min(batches)}")
    is_timms = require("timm", "train").is_model
    found = [
        dict(zip(CASE, (name, library, runtime, str(batch), str(variant.image_size)), strict=True))
        for name, variant in MODELS.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        for batch in batches
        for library in libraries
        if library == "regard" or is_timms(name)
        for runtime in runtimes
    ]
    if not found:
        raise OptionError(
            f"expected a library that has {','.join(patterns)}, got {','.join(libraries)}; add regard to the libraries"
        )
    return found


def usable(runtimes: Sequence[str], report: Callable[[str], object]) -> list[str]:
    """Return the runtimes that this installation has, and report why the others are left out."""
    problems = {name: RUNTIMES[name].problem() for name in runtimes if name in RUNTIMES}
    for name, problem in problems.items():
        if problem:
            report(f"without {name}: {problem}")
    return [name for name in runtimes if not problems.get(name)]


def missing(results: Results, wanted: Sequence[Row], *, retry: bool = False) -> list[Row]:
    """Return the cases that have no row on this machine yet; with `retry`, also those whose row has an error."""
    found = [results.find(case) for case in wanted]
    return [case for case, row in zip(wanted, found, strict=True) if row is None or (retry and row["error"])]


def fill(results: Results, unmeasured: Sequence[Row], measure: Callable[[Row], Row]) -> Iterator[Row]:
    """Measure cases, append their rows to the results, and yield each row when it is complete."""
    for case in unmeasured:
        row = measure(case)
        results.append(row)
        yield row


def measure_apart(case: Row, *, seconds: float, timeout: float) -> Row:
    """Measure a case in a new process; return its row, which has an error if the process fails or takes too long."""
    task = {"case": case, "threads": torch.get_num_threads(), "seconds": seconds}
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "row.json", Path(folder) / "log.txt"
        code = _run_alone([sys.executable, "-m", MODULE, json.dumps(task), str(output)], log, timeout)
        if code == 0:
            return json.loads(output.read_text())
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code is None:
        error = f"stopped after {timeout:g} s"
    elif code < 0:
        error = f"ended by {signal.Signals(-code).name}"
    else:
        error = lines[-1] if lines else f"exit code {code}"
    own = {column: str(value) for column, value in facts().items()}
    return {**case, **own, "dtype": RUNTIMES[case["runtime"]].dtype, "error": error}


def outcome(row: Mapping[str, str]) -> str:
    """Return what a printed line says about a row."""
    if row.get("error"):
        return f"error: {row['error']}"
    return f"{row['infer_step_time']} ms, {row['speedup']} times as fast as {row['baseline']}"


def _run_alone(command: Sequence[str], log: Path, timeout: float) -> int | None:
    """Run a command in a process group and end the whole group; return its exit code, or None after the timeout."""
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True) as process,
    ):
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:  # Windows has no process groups
                process.kill()
