"""`regard bench mechanisms`, `kernels` and `models`, and `regard advise`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import torch
import typer

from regard import benchmark
from regard.benchmark import KERNEL_PEERS, PEERS, Machine, Measurement, Size, Steal
from regard.benchmark.models import LIBRARIES, cases, fill, measure_apart, missing, outcome, usable
from regard.benchmark.peers import problem_of
from regard.benchmark.results import Results
from regard.benchmark.runtimes import OTHER_NAMES, RUNTIMES
from regard.cli.bench_tables import show_advice, show_comparison, show_kernels, show_mechanisms, show_models
from regard.cli.progress import Progress
from regard.errors import OptionError, UnsupportedError
from regard.native import loader
from regard.training.devices import count_cores
from regard.training.output import writing

SWEEP = (16, 32, 48, 64, 96)
PLOTS = (".png", ".svg", ".pdf")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda")
NOISY_STEAL = 0.02
"""A share of stolen time that the last line names."""

Dim = Annotated[int, typer.Option(help="Channels.")]
Heads = Annotated[int, typer.Option(help="Heads, of the mechanisms that have heads.")]
Batch = Annotated[int, typer.Option(help="Images.")]
Seconds = Annotated[float, typer.Option(min=0, help="Roughly, per implementation, size and pass.")]
Device = Annotated[str, typer.Option(help="cpu, or a GPU: cuda.")]
Dtype = Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.")]
Names = Annotated[str | None, typer.Option(help="Mechanisms, separated by commas.", show_default="all")]
Training = Annotated[bool, typer.Option(help="Measure forward and backward, too.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="PyTorch's")]
InstructionSet = Annotated[
    str | None, typer.Option(help="Library of CPU kernels: x86_64_v4, x86_64_v3 or portable.", show_default="the best")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the results as CSV.")]

S = TypeVar("S")

app = typer.Typer(no_args_is_help=True)


@app.callback(invoke_without_command=True)
def bench(
    ctx: typer.Context,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="BEFORE AFTER", help="Compare two JSON files; measure nothing.")
    ] = None,
) -> None:
    """Measure mechanisms, kernels or whole models on this machine, or compare two measurements.

    Example: regard bench mechanisms --grids 14,28,56 --dim 96 --heads 3
    """
    if compare is None:
        return
    if ctx.invoked_subcommand is not None:
        raise OptionError(f"expected --compare alone, got {ctx.invoked_subcommand}, too; leave one of them out")
    show_comparison(benchmark.compare(*compare))


@app.command()
def mechanisms(
    grids: Annotated[
        str, typer.Option(help="Grids, separated by commas: sides of squares, or as in 56x28.")
    ] = ",".join(map(str, SWEEP)),
    dim: Dim = 64,
    heads: Heads = 2,
    batch: Batch = 1,
    mechanisms: Names = None,
    peers: Annotated[
        str, typer.Option(help=f"Measure these, too, separated by commas: all, or of {', '.join(PEERS)}.")
    ] = "",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    training: Training = False,
    seconds: Seconds = 1.0,
    threads: Threads = None,
    instruction_set: InstructionSet = None,
    json_file: Json = None,
    csv_file: Csv = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time and memory against tokens: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Measure all mechanisms as modules at several sizes: time, memory, operations, and how they grow.

    Example: regard bench mechanisms --grids 14,28,56 --dim 96 --heads 3 --peers timm --plot growth.png
    """
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise OptionError.unknown("format of a plot", plot.suffix, PLOTS)
    place = _dtype(dtype), _device(device)
    sizes = [Size(_grid(text), dim, heads, batch, *place) for text in grids.split(",")]
    names, others = _names(mechanisms), _peers(peers, PEERS, device)
    progress = Progress(len(sizes) * len(benchmark.select(names)))
    _select(threads, instruction_set)
    with _outputs(json_file, csv_file, plot, device) as files:
        found = _measured(
            lambda size: benchmark.measure(size, names, peers=others, seconds=seconds, training=training, report=_say),
            sizes,
            progress,
        )
        records = benchmark.as_records(found, files.machine)
        growth = _growth(names, sizes, seconds)
        files.write(records, growth)
        if files.plot is not None and plot is not None:
            benchmark.plot(files.plot, records, files.machine, growth, plot.suffix)
    show_mechanisms(records, growth)


@app.command()
def kernels(
    mechanisms: Names = None,
    peers: Annotated[
        str, typer.Option(help=f"Measure these, too, separated by commas: all, or of {', '.join(KERNEL_PEERS)}.")
    ] = "",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    training: Training = True,
    seconds: Seconds = 1.0,
    threads: Threads = None,
    instruction_set: InstructionSet = None,
    json_file: Json = None,
    csv_file: Csv = None,
) -> None:
    """Measure the fused operators alone, at sizes of the backbones and of published tables.

    Example: regard bench kernels --mechanisms neighborhood --peers flex,reference
    """
    numbers, device = _dtype(dtype), _device(device)
    names, others = _names(mechanisms), _peers(peers, KERNEL_PEERS, device)
    chosen = {subject.name for subject in benchmark.select(names)}
    calls = [kernel for kernel in benchmark.kernels_of(device) if kernel.mechanism in chosen]
    _select(threads, instruction_set)
    with _outputs(json_file, csv_file, device=device) as files:
        found = _measured(
            lambda kernel: benchmark.measure_kernels(
                [kernel],
                peers=others,
                device=device,
                dtype=numbers,
                seconds=seconds,
                training=training,
                report=_say,
            ),
            calls,
            Progress(len(calls)),
        )
        records = benchmark.as_records(found, files.machine)
        files.write(records, {})
    show_kernels(records)


@app.command()
def models(
    csv_file: Annotated[
        Path, typer.Option("--csv", metavar="FILE", help="Rows are appended; the same command continues a stopped run.")
    ],
    models: Annotated[str, typer.Option(help="Patterns of names, separated by commas.")] = "*",
    libraries: Annotated[str, typer.Option(help="Of timm and regard.")] = ",".join(LIBRARIES),
    runtime: Annotated[
        str, typer.Option(help=f"Separated by commas, of {', '.join(RUNTIMES)}.", show_default="all")
    ] = ",".join(RUNTIMES),
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    seconds: Annotated[float, typer.Option(min=0, help="For the calls of a row.")] = 5.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a row is given up.")] = 900.0,
    threads: Threads = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure rows again that have an error.")] = False,
) -> None:
    """Measure whole models of regard and timm in all runtimes, into a table with the columns of timm's results.

    Example: regard bench models --models 'swiftformer*' --runtime eager,frozen --batch 1,8 --csv results.csv
    """
    chosen = [OTHER_NAMES.get(name, name) for name in runtime.split(",")]
    wanted = cases(models.split(","), libraries.split(","), chosen, [_whole(text) for text in batch.split(",")])
    kept = set(usable(chosen, _say))
    wanted = [case for case in wanted if case["runtime"] in kept]
    _select(threads, None)
    results = Results(csv_file)
    unmeasured = missing(results, wanted, retry=retry)
    progress = Progress(len(unmeasured))
    for row in fill(results, unmeasured, lambda case: measure_apart(case, seconds=seconds, timeout=timeout)):
        progress.step(f"{row['model']} {row['library']} {row['runtime']} x {row['infer_batch_size']}: {outcome(row)}")
    show_models(results, wanted)


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
    with _outputs(json_file) as files:
        found = benchmark.measure_together(size, seconds=seconds)
        records = benchmark.as_records(found, files.machine)
        files.write(records, {})
    show_advice(records)


class _Outputs(NamedTuple):
    """The machine, and the files that a measurement writes."""

    machine: Machine
    steal: Steal
    json: Path | None
    csv: Path | None
    plot: Path | None

    def write(self, records: Sequence[benchmark.Record], growth: dict[str, float]) -> None:
        """Write the files, and say how much of the processors a hypervisor took."""
        share = self.steal.share()
        if share is not None and share > NOISY_STEAL:
            _say(f"the hypervisor took {share:.0%} of the processors' time: measure again later")
        if self.json is not None:
            benchmark.write_json(self.json, records, self.machine, share, growth)
        if self.csv is not None:
            benchmark.write_csv(self.csv, records, self.machine, share)


@contextmanager
def _outputs(
    json_file: Path | None, csv_file: Path | None = None, plot: Path | None = None, device: str = "cpu"
) -> Iterator[_Outputs]:
    """Check the files before the long work, measure the machine, and print its facts."""
    named = [file.resolve() for file in (json_file, csv_file, plot) if file is not None]
    if len(set(named)) < len(named):
        raise OptionError(f"expected different files for --json, --csv and --plot, got {', '.join(map(str, named))}")
    with ExitStack() as stack:
        files = [None if file is None else stack.enter_context(writing(file)) for file in (json_file, csv_file, plot)]
        steal, machine = Steal(), Machine.measure(device=device)
        _say(str(machine))
        yield _Outputs(machine, steal, *files)


def _measured(
    measure: Callable[[S], Iterator[Measurement]], sizes: Sequence[S], progress: Progress
) -> list[Measurement]:
    """Measure all sizes, and say how far it is whenever regard's part of a size is done."""
    found = []
    for size in sizes:
        for one in measure(size):
            found.append(one)
            if one.result.library == "regard":
                progress.step(f"{one.mechanism} {size}")
            if one.result.problem:
                _say(f"{one.result.library} of {one.mechanism}: {one.result.problem}")
    return found


def _growth(names: Sequence[str] | None, sizes: Sequence[Size], seconds: float) -> dict[str, float]:
    """Measure the exponents of all mechanisms, if there are several sizes."""
    if len({size.tokens for size in sizes}) < 2:
        return {}
    _say("measuring how the mechanisms grow")
    return {subject.name: benchmark.measure_growth(subject, sizes, 2 * seconds) for subject in benchmark.select(names)}


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _select(threads: int | None, instruction_set: str | None) -> None:
    if threads is not None:
        if threads > count_cores():
            raise OptionError(
                f"expected at most {count_cores()} threads, as many as this process may use cores, got {threads}"
            )
        torch.set_num_threads(threads)
    if instruction_set is not None:
        native = loader.load(instruction_set)
        if native.library is None:
            raise UnsupportedError(native.problem)
        loader.NATIVE = native


def _names(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def _dtype(text: str) -> torch.dtype:
    if text not in DTYPES:
        raise OptionError.unknown("dtype", text, DTYPES)
    return DTYPES[text]


def _device(text: str) -> str:
    if text.partition(":")[0] not in DEVICES:
        raise OptionError.unknown("device", text, DEVICES)
    if text != "cpu" and not torch.cuda.is_available():
        raise UnsupportedError(f"device {text!r} needs a GPU that PyTorch can use, and there is none; use cpu")
    return text


def _peers(text: str, known: Collection[str], device: str) -> list[str]:
    """Return the peers that a text names and this installation has, and say which others are left out."""
    names = list(known) if text == "all" else list(dict.fromkeys(text.split(","))) if text else []
    for name in names:
        if name not in known:
            raise OptionError.unknown("peer", name, known)
    problems = {name: problem_of(name, device) for name in names}
    for name, problem in problems.items():
        if problem:
            _say(f"without {name}: {problem}")
    return [name for name in names if not problems[name]]


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise OptionError(f"expected whole numbers separated by commas, got {text!r}")
    return int(text)


def _grid(text: str) -> tuple[int, int]:
    parts = text.strip().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise OptionError(f"expected a grid such as 56x28, or the side of a square, got {text!r}")
    rows, columns = (parts * 2)[:2]
    return int(rows), int(columns)
