"""`regard bench` and `regard advise`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from regard import benchmark
from regard.benchmark import SUBJECTS, Machine, Measurement, Size
from regard.cli.tables import Table, show
from regard.errors import OptionError
from regard.training.output import writing

SWEEP = (16, 32, 64, 128)
PLOTS = (".png", ".svg", ".pdf")
Dim = Annotated[int, typer.Option(help="Channels.")]
Heads = Annotated[int, typer.Option(help="Heads, of the mechanisms that have heads.")]
Batch = Annotated[int, typer.Option(help="Images.")]
Seconds = Annotated[float, typer.Option(help="Roughly, per mechanism, size and pass.")]
Names = Annotated[str | None, typer.Option(help="Mechanisms, separated by commas.", show_default="all")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the results as CSV.")]


def bench(
    grids: Annotated[
        str, typer.Option(help="Grids, separated by commas: sides of squares, or as in 56x28.")
    ] = ",".join(map(str, SWEEP)),
    dim: Dim = 64,
    heads: Heads = 2,
    batch: Batch = 1,
    mechanisms: Names = None,
    training: Annotated[bool, typer.Option(help="Measure forward and backward, too.")] = False,
    seconds: Seconds = 1.0,
    threads: Annotated[int | None, typer.Option(help="Threads.", show_default="PyTorch's")] = None,
    json_file: Json = None,
    csv_file: Csv = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time and memory against tokens: .png, .svg or .pdf.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="BEFORE AFTER", help="Compare two JSON files; measure nothing.")
    ] = None,
) -> None:
    """Measure all mechanisms at several sizes: time, memory, operations, and how they grow.

    Example: regard bench --grids 14,28,56 --dim 96 --heads 3 --plot growth.png
    """
    if compare is not None:
        _show_comparison(benchmark.compare(*compare))
        return
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise OptionError.unknown("format of a plot", plot.suffix, PLOTS)
    sizes = [Size(_grid(text), dim, heads, batch) for text in grids.split(",")]
    names = None if mechanisms is None else mechanisms.split(",")
    benchmark.select(names)
    if threads is not None:
        torch.set_num_threads(threads)
    with ExitStack() as stack:
        files = {
            kind: None if file is None else stack.enter_context(writing(file))
            for kind, file in (("json", json_file), ("csv", csv_file), ("plot", plot))
        }
        machine = Machine.measure()
        typer.echo(str(machine), err=True)
        found = _measure(sizes, names, seconds, training)
        exponents = _exponents(found)
        records = benchmark.as_records(found, machine)
        if files["json"] is not None:
            benchmark.write_json(files["json"], records, machine)
        if files["csv"] is not None:
            benchmark.write_csv(files["csv"], records, machine)
        if files["plot"] is not None and plot is not None:
            benchmark.plot(files["plot"], records, machine, exponents, plot.suffix)
    _show_records(records, exponents)


def advise(
    grid: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the tokens, such as 56x56.")],
    dim: Dim,
    heads: Heads,
    batch: Batch = 1,
    seconds: Seconds = 1.0,
    json_file: Json = None,
) -> None:
    """Measure every mechanism at one size, here and now, and rank them by the time of a training step.

    Example: regard advise --grid 56x56 --dim 96 --heads 3
    """
    size = Size(_grid(grid), dim, heads, batch)
    with ExitStack() as stack:
        file = None if json_file is None else stack.enter_context(writing(json_file))
        machine = Machine.measure()
        typer.echo(str(machine), err=True)
        found = _measure([size], None, seconds, training=True)
        if file is not None:
            benchmark.write_json(file, benchmark.as_records(found, machine), machine)
    ranked = sorted(found, key=lambda one: one.training.median if one.training else one.forward.median)
    subjects = {subject.name: subject for subject in SUBJECTS}
    table = Table(
        "mechanism",
        "forward",
        "forward + backward",
        "memory, training",
        "grows with",
        "a token sees",
        right=("forward", "forward + backward", "memory, training"),
        whole=("mechanism",),
    )
    for one in ranked:
        subject = subjects[one.mechanism]
        training = "" if one.training is None else _milliseconds(one.training)
        table.add(
            one.mechanism,
            _milliseconds(one.forward),
            training,
            _megabytes(one.memory_training),
            subject.grows,
            subject.sees,
        )
    show(table)


def _measure(sizes: Sequence[Size], names: Sequence[str] | None, seconds: float, training: bool) -> list[Measurement]:
    """Measure, and say on standard error how far it is."""
    found = []
    count = len(sizes) * len(benchmark.select(names))
    for size in sizes:
        for one in benchmark.measure(size, names, seconds=seconds, training=training):
            found.append(one)
            typer.echo(f"{len(found)}/{count}  {one.mechanism} {size}", err=True)
    return found


def _exponents(found: Sequence[Measurement]) -> dict[str, float]:
    """Fit the exponents of the mechanisms that were measured at several sizes."""
    by_name: dict[str, list[Measurement]] = {}
    for one in found:
        by_name.setdefault(one.mechanism, []).append(one)
    return {
        name: benchmark.exponent(some) for name, some in by_name.items() if len({one.size.tokens for one in some}) > 1
    }


def _show_records(records: Sequence[Mapping[str, Any]], exponents: Mapping[str, float]) -> None:
    numbers = ("forward", "quartiles", "training", "of torch.mm", "of copy", "memory", "exponent")
    table = Table("mechanism", "grid", *numbers, right=numbers, whole=("mechanism", "grid"))
    for row in records:
        mark = " noisy" if row["noisy"] else ""
        table.add(
            row["mechanism"],
            row["grid"],
            _digits(row["forward_ms"], row["noisy"]) + " ms" + mark,
            f"{_digits(row['forward_ms_low'], True)}-{_digits(row['forward_ms_high'], True)}",
            "" if row["training_ms"] is None else f"{_digits(row['training_ms'], row['noisy'])} ms",
            f"{row['share_of_mm']:.0%}",
            f"{row['share_of_copy']:.0%}",
            "" if row["memory_mb"] is None else f"{row['memory_mb']:.1f} MB",
            f"{exponents[row['mechanism']]:.2f}" if row["mechanism"] in exponents else "",
        )
    show(table)


def _show_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("mechanism", "grid", "before", "after", "ratio", right=("before", "after", "ratio"))
    for row in rows:
        mark = " noisy" if row["noisy"] else ""
        table.add(
            row["mechanism"],
            row["grid"],
            f"{row['before_ms']:.3g} ms",
            f"{row['after_ms']:.3g} ms",
            f"{row['ratio']:.2f}{mark}",
        )
    show(table)


def _digits(value: float, is_noisy: bool) -> str:
    """Format a number, with two digits where a third would say nothing."""
    return f"{value:.2g}" if is_noisy and value < 100 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _milliseconds(times: benchmark.Times) -> str:
    return f"{_digits(1e3 * times.median, times.is_noisy)} ms" + (" noisy" if times.is_noisy else "")


def _megabytes(memory: int | None) -> str:
    return "" if memory is None else f"{memory / 1e6:.1f} MB"


def _grid(text: str) -> tuple[int, int]:
    parts = text.strip().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise OptionError(f"expected a grid such as 56x28, or the side of a square, got {text!r}")
    rows, columns = (parts * 2)[:2]
    return int(rows), int(columns)
