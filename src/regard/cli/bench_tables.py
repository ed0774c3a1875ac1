"""The tables of `regard bench` and `regard advise`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regard.benchmark import SUBJECTS, Record
from regard.benchmark.results import Results, Row
from regard.cli.tables import Table, show
from regard.timing import NOISY


def show_mechanisms(records: Sequence[Record], growth: Mapping[str, float]) -> None:
    """Show modules at several sizes."""
    numbers = ("forward", "quartiles", "training", "x regard", "of torch.mm", "of copy", "memory", "exponent")
    table = Table("mechanism", "library", "grid", *numbers, right=numbers, whole=("mechanism", "grid"))
    for row in records:
        is_ours = row["library"] == "regard"
        exponent = f"{growth[row['mechanism']]:.2f}" if is_ours and row["mechanism"] in growth else ""
        table.add(row["mechanism"], row["library"], row["grid"], *_cells(row), exponent)
    show(table)


def show_kernels(records: Sequence[Record]) -> None:
    """Show operators."""
    numbers = ("forward", "quartiles", "training", "x regard", "of torch.mm", "of copy", "memory")
    table = Table("mechanism", "library", "call", *numbers, right=numbers, whole=("mechanism",))
    for row in records:
        table.add(row["mechanism"], row["library"], row["shape"], *_cells(row))
    show(table)


def _cells(row: Record) -> tuple[str, ...]:
    """Return the cells of a row's figures, empty where there is none."""
    if row["forward_ms"] is None:
        return (row["problem"], *[""] * 6)
    return (
        f"{_time(row, 'forward')}{' noisy' if row['noisy'] else ''}",
        f"{_digits(row['forward_ms_low'], True)}-{_digits(row['forward_ms_high'], True)}",
        _time(row, "training"),
        f"{row['ratio']:.2f}",
        f"{row['share_of_mm']:.0%}",
        f"{row['share_of_copy']:.0%}",
        _megabytes(row["memory_mb"]),
    )


def show_comparison(rows: Sequence[Record]) -> None:
    """Show two measurements side by side."""
    table = Table("mechanism", "library", "size", "before", "after", "ratio", right=("before", "after", "ratio"))
    for row in rows:
        ratio = f"{row['ratio']:.2f}{' noisy' if row['noisy'] else ''}"
        times = (f"{row['before_ms']:.3g} ms", f"{row['after_ms']:.3g} ms")
        table.add(row["mechanism"], row["library"], row["size"], *times, ratio)
    show(table)


def show_models(results: Results, wanted: Sequence[Row]) -> None:
    """Show the rows of the cases, one model's rows next to each other."""
    numbers = ("per call", "images/s", "speedup", "GMACs")
    table = Table("model", "library", "runtime", "batch", *numbers, "problem", right=("batch", *numbers))
    for case in wanted:
        row = results.find(case)
        if row is not None:
            names = ("model", "library", "runtime", "infer_batch_size")
            table.add(*(row[name] for name in names), *_figures(row), row["infer_gmacs"], row["error"])
    show(table)


def _figures(row: Row) -> tuple[str, str, str]:
    """Return the cells of a model's time, rate and speed-up, empty where the row has none."""
    if not row["infer_step_time"]:
        return "", "", ""
    is_noisy = float(row["spread"]) > NOISY
    milliseconds, rate = (_digits(float(row[name]), is_noisy) for name in ("infer_step_time", "infer_samples_per_sec"))
    return f"{milliseconds} ms{' noisy' if is_noisy else ''}", rate, f"{float(row['speedup']):.2f}"


def show_advice(records: Sequence[Record]) -> None:
    """Rank the mechanisms by the time of a training step, which were measured in turn."""
    numbers = ("forward", "forward + backward", "times the fastest", "memory, training")
    table = Table("mechanism", *numbers, "grows with", "a token sees", right=numbers, whole=("mechanism",))
    subjects = {subject.name: subject for subject in SUBJECTS}
    fastest = min(row["ratio_training"] for row in records)
    for row in sorted(records, key=lambda row: row["ratio_training"]):
        subject = subjects[row["mechanism"]]
        times = (_time(row, "forward"), _time(row, "training") + (" noisy" if row["noisy"] else ""))
        ratio = f"{row['ratio_training'] / fastest:.2f}"
        table.add(row["mechanism"], *times, ratio, _megabytes(row["memory_training_mb"]), subject.grows, subject.sees)
    show(table)


def _time(row: Record, name: str) -> str:
    value = row[f"{name}_ms"]
    return "" if value is None else f"{_digits(value, row['noisy'])} ms"


def _digits(value: float, is_noisy: bool) -> str:
    """Format a number, with two digits where a third would say nothing."""
    return f"{value:.2g}" if is_noisy and value < 100 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _megabytes(memory: float | None) -> str:
    return "" if memory is None else f"{memory:.1f} MB"
