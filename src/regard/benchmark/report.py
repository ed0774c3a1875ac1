"""Results as JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regard.benchmark.ceilings import Machine
from regard.benchmark.mechanisms import Measurement
from regard.errors import DataError
from regard.extras import require


def as_records(measurements: Sequence[Measurement], machine: Machine) -> list[dict[str, Any]]:
    """Return one flat record per measurement, with its shares of the machine's ceilings."""
    records = []
    for one in measurements:
        low, high = one.forward.quartiles
        records.append(
            {
                "mechanism": one.mechanism,
                "grid": f"{one.size.grid[0]}x{one.size.grid[1]}",
                "tokens": one.size.tokens,
                "dim": one.size.dim,
                "heads": one.size.heads,
                "batch": one.size.batch,
                "forward_ms": 1e3 * one.forward.median,
                "forward_ms_low": 1e3 * low,
                "forward_ms_high": 1e3 * high,
                "training_ms": None if one.training is None else 1e3 * one.training.median,
                "gflops": one.flops / 1e9,
                "mbytes": one.traffic / 1e6,
                "share_of_mm": one.flops / one.forward.median / machine.flops,
                "share_of_copy": one.traffic / one.forward.median / machine.bytes,
                "memory_mb": None if one.memory is None else one.memory / 1e6,
                "memory_training_mb": None if one.memory_training is None else one.memory_training / 1e6,
                "difference": one.difference,
                "noisy": one.forward.is_noisy,
            }
        )
    return records


def write_json(file: str | Path, records: Sequence[Mapping[str, Any]], machine: Machine) -> None:
    """Write records with the machine's facts."""
    Path(file).write_text(json.dumps({"machine": asdict(machine), "rows": list(records)}, indent=1))


def write_csv(file: str | Path, records: Sequence[Mapping[str, Any]], machine: Machine) -> None:
    """Write records, each with the machine's facts in its last columns."""
    rows = [{**record, **{f"machine_{key}": value for key, value in asdict(machine).items()}} for record in records]
    with Path(file).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def compare(before: str | Path, after: str | Path) -> list[dict[str, Any]]:
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
            "mechanism": key[0],
            "grid": key[1],
            "before_ms": old[key]["forward_ms"],
            "after_ms": new[key]["forward_ms"],
            "ratio": new[key]["forward_ms"] / old[key]["forward_ms"],
            "noisy": old[key]["noisy"] or new[key]["noisy"],
        }
        for key in common
    ]


def plot(
    file: str | Path,
    records: Sequence[Mapping[str, Any]],
    machine: Machine,
    exponents: Mapping[str, float],
    ending: str | None = None,
) -> None:
    """Draw time and memory against the number of tokens, in double logarithms; as PNG, SVG or PDF by the ending."""
    kind = Path(file).suffix if ending is None else ending
    figure = require("matplotlib.figure", "look").Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(record["mechanism"] for record in records):
        rows = sorted((row for row in records if row["mechanism"] == name), key=lambda row: row["tokens"])
        tokens = [row["tokens"] for row in rows]
        label = f"{name.replace('_', ' ')}  N^{exponents[name]:.2f}" if name in exponents else name.replace("_", " ")
        (line,) = left.plot(tokens, [row["forward_ms"] for row in rows], "o-", label=label)
        lows, highs = ([row[key] for row in rows] for key in ("forward_ms_low", "forward_ms_high"))
        left.fill_between(tokens, lows, highs, color=line.get_color(), alpha=0.2)
        if all(row["memory_mb"] for row in rows):
            right.plot(tokens, [row["memory_mb"] for row in rows], "o-", color=line.get_color())
    for axes, label in ((left, "forward pass, ms"), (right, "memory added at the peak, MB")):
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"{records[0]['dim']} channels, {records[0]['heads']} heads; {machine}", fontsize=8)
    figure.savefig(file, dpi=150, facecolor="white", format=kind.lower().removeprefix("."))


def _rows(file: str | Path) -> dict[tuple[object, ...], dict[str, Any]]:
    try:
        rows = json.loads(Path(file).read_text())["rows"]
        return {tuple(row[key] for key in ("mechanism", "grid", "dim", "heads", "batch")): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected a JSON file that regard bench has written, got {str(file)!r} ({error}); write one with --json"
        ) from error
