"""Results as JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regard.benchmark.machine import Machine
from regard.benchmark.mechanisms import Measurement
from regard.errors import DataError
from regard.extras import require
from regard.timing import Times

Record = dict[str, Any]


def as_records(measurements: Sequence[Measurement], machine: Machine) -> list[Record]:
    """Return one flat record per measurement, with its shares of the machine's ceilings.

    Columns of a pass that was not measured are None. `ratio` is the time as a multiple of regard's.
    """
    return [_record(one, machine) for one in measurements]


def _record(one: Measurement, machine: Machine) -> Record:
    result = one.result
    forward = result.forward
    return {
        "mechanism": one.mechanism,
        "library": result.library,
        **one.size.columns,
        **_times("forward", forward),
        "ratio": result.ratio,
        **_times("training", result.training),
        "ratio_training": result.ratio_training,
        "gflops": one.flops / 1e9,
        "mbytes": one.traffic / 1e6,
        "gflops_per_second": None if forward is None else one.flops / forward.median / 1e9,
        "gbytes_per_second": None if forward is None else one.traffic / forward.median / 1e9,
        "share_of_mm": None if forward is None else one.flops / forward.median / machine.flops,
        "share_of_copy": None if forward is None else one.traffic / forward.median / machine.bytes,
        "memory_mb": None if result.memory is None else result.memory / 1e6,
        "memory_training_mb": None if result.memory_training is None else result.memory_training / 1e6,
        "difference": result.difference,
        "noisy": any(times.is_noisy for times in (forward, result.training) if times is not None),
        "problem": result.problem,
    }


def _times(name: str, times: Times | None) -> Record:
    if times is None:
        return {f"{name}_ms": None, f"{name}_ms_low": None, f"{name}_ms_high": None}
    low, high = times.quartiles
    return {f"{name}_ms": 1e3 * times.median, f"{name}_ms_low": 1e3 * low, f"{name}_ms_high": 1e3 * high}


def write_json(
    file: str | Path, records: Sequence[Record], machine: Machine, steal: float | None, growth: Mapping[str, float]
) -> None:
    """Write records with the machine's facts, the share of time that a hypervisor took, and the exponents."""
    content = {"machine": {**asdict(machine), "steal": steal}, "exponents": dict(growth), "rows": list(records)}
    Path(file).write_text(json.dumps(content, indent=1))


def write_csv(file: str | Path, records: Sequence[Record], machine: Machine, steal: float | None) -> None:
    """Write records, each with the machine's facts in its last columns."""
    last = {f"machine_{key}": value for key, value in {**asdict(machine), "steal": steal}.items()}
    with Path(file).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, {**records[0], **last})
        writer.writeheader()
        writer.writerows({**record, **last} for record in records)


KEYS = ("mechanism", "library", "grid", "shape", "dim", "heads", "batch", "dtype", "device")
"""Columns that say what a row is about; rows of mechanisms and of kernels have some of them each."""
COMPARED = ("forward_ms", "noisy")


def compare(before: str | Path, after: str | Path) -> list[Record]:
    """Return, for every row that two JSON files share, both times and their ratio.

    Ratios of files from different moments also contain what other programs did then.

    Raises:
        DataError: a file that is no result, or files without a common row.
    """
    old, new = _rows(before), _rows(after)
    common = [key for key in new if key in old]
    if not common:
        raise DataError(f"expected files with common rows, got none in {str(before)!r} and {str(after)!r}")
    return [
        {
            "mechanism": new[key]["mechanism"],
            "library": new[key]["library"],
            "size": new[key]["shape"] if new[key]["grid"] is None else new[key]["grid"],
            "before_ms": old[key]["forward_ms"],
            "after_ms": new[key]["forward_ms"],
            "ratio": new[key]["forward_ms"] / old[key]["forward_ms"],
            "noisy": old[key]["noisy"] or new[key]["noisy"],
        }
        for key in common
    ]


def _rows(file: str | Path) -> dict[tuple[object, ...], Record]:
    try:
        rows = [
            {key: row.get(key) for key in KEYS} | {key: row[key] for key in ("mechanism", "library", *COMPARED)}
            for row in json.loads(Path(file).read_text())["rows"]
        ]
        return {tuple(row[key] for key in KEYS): row for row in rows if row["forward_ms"] is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected a JSON file that regard bench has written, got {str(file)!r} ({error}); write one with --json"
        ) from error


def plot(
    file: str | Path,
    records: Sequence[Record],
    machine: Machine,
    growth: Mapping[str, float],
    ending: str | None = None,
) -> None:
    """Draw time and memory against the number of tokens, in double logarithms; as PNG, SVG or PDF by the ending."""
    kind = Path(file).suffix if ending is None else ending
    figure = require("matplotlib.figure", "look").Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    ticker = require("matplotlib.ticker", "look")
    measured = sorted({row["tokens"] for row in records})
    for mechanism, library in dict.fromkeys((row["mechanism"], row["library"]) for row in records):
        rows = [row for row in records if (row["mechanism"], row["library"]) == (mechanism, library)]
        rows = sorted((row for row in rows if row["forward_ms"] is not None), key=lambda row: row["tokens"])
        if not rows:
            continue
        tokens, label = [row["tokens"] for row in rows], mechanism.replace("_", " ")
        if library != "regard":
            label += f", {library}"
        elif mechanism in growth:
            label += f"  N^{growth[mechanism]:.2f}"
        style = "o-" if library == "regard" else "x--"
        (line,) = left.plot(tokens, [row["forward_ms"] for row in rows], style, label=label)
        lows, highs = ([row[key] for row in rows] for key in ("forward_ms_low", "forward_ms_high"))
        left.fill_between(tokens, lows, highs, color=line.get_color(), alpha=0.2)
        if all(row["memory_mb"] for row in rows):
            right.plot(tokens, [row["memory_mb"] for row in rows], style, color=line.get_color())
    for axes, label in ((left, "forward pass, ms"), (right, "memory added at the peak, MB")):
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.set_xticks(measured, map(str, measured))
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"{records[0]['dim']} channels, {records[0]['heads']} heads\n{machine}", fontsize=8)
    figure.savefig(file, dpi=150, facecolor="white", format=kind.lower().removeprefix("."))
