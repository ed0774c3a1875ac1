"""Measure all models in all runtimes, and write a CSV file in the columns of timm's benchmark results.

A row is one model of one library in one runtime, for one batch size. It is measured in a process of its own, in turn
with the same model of timm in eager mode, so `speedup` is a ratio from one run. A row that is in the file already is
not measured again on the same machine: to continue a run that was stopped, give the same command.

    python benchmarks/table.py results.csv
    python benchmarks/table.py results.csv --models 'swiftformer*' 'swin_tiny*' --runtimes eager,fused --batch 1,8
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

import timm

import machine
from common import argument_parser, start
from regard.models import MODELS
from results import CASE, MACHINE, OtherColumnsError, Results
from runtimes import RUNTIMES

LIBRARIES = ("timm", "regard")
ROW = Path(__file__).with_name("row.py")


def cases(patterns, libraries, runtimes, batches):
    """Return the cases that the filters select, the rows of one model next to each other."""
    return [
        dict(zip(CASE, (name, library, runtime, str(batch), str(variant.image_size)), strict=True))
        for name, variant in MODELS.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        for batch in batches
        for library in libraries
        if library == "regard" or timm.is_model(name)
        for runtime in runtimes
    ]


def usable(names):
    """Return the runtimes that this installation has, and say why the others are left out."""
    problems = {name: RUNTIMES[name].problem() for name in names}
    for name, problem in problems.items():
        if problem:
            print(f"without {name}: {problem}")
    return [name for name, problem in problems.items() if not problem]


def measured(case, options):
    """Measure a case in a new process; return its row, which has an error if the process fails or takes too long."""
    task = {
        "case": case,
        "instruction_set": options.instruction_set,
        "threads": options.threads,
        "seconds": options.seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "row.json", Path(folder) / "log.txt"
        command = [sys.executable, str(ROW), json.dumps(task), str(output)]
        code = run_alone(command, log, options.timeout)
        if code == 0:
            return json.loads(output.read_text())
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code is None:
        error = f"stopped after {options.timeout:g} s"
    elif code < 0:
        error = f"ended by {signal.Signals(-code).name}"
    else:
        error = lines[-1] if lines else f"exit code {code}"
    return {**case, **machine.facts(), "dtype": RUNTIMES[case["runtime"]].dtype, "error": error}


def run_alone(command, log, timeout):
    """Run a command in a process group, of which nothing is left at the end; return its exit code, None if too late."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fill(results, wanted, measure, retry=False):
    """Measure the cases that have no row on this machine yet, and append their rows."""
    facts = machine.facts()
    facts = {column: facts[column] for column in MACHINE}
    found = [results.find(case, facts) for case in wanted]
    missing = [case for case, row in zip(wanted, found, strict=True) if row is None or (retry and row["error"])]
    print(f"{len(wanted)} rows, {len(wanted) - len(missing)} of them measured before")
    for place, case in enumerate(missing, 1):
        row = measure(case)
        results.append(row)
        print(f"{place}/{len(missing)}  {' '.join(case.values())}  {outcome(row)}", flush=True)


def outcome(row):
    """Return what a printed line says about a row."""
    if row.get("error"):
        return f"error: {row['error']}"
    return f"{row['infer_step_time']} ms  {row['speedup']} times {row['baseline']}  difference {row['difference']}"


def parse(parser):
    """Add the table's own arguments."""

    def names(valid):
        def split(text):
            words = text.split(",")
            if unknown := [word for word in words if word not in valid]:
                parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(valid)}")
            return words

        return split

    def sizes(text):
        return [int(size) for size in text.split(",")]

    parser.add_argument("results", type=Path, help="the CSV file; rows are appended")
    parser.add_argument("--models", nargs="+", default=["*"], help="patterns of names; default: all of regard's models")
    parser.add_argument("--libraries", type=names(LIBRARIES), default=LIBRARIES, help=",".join(LIBRARIES))
    parser.add_argument("--runtimes", type=names(tuple(RUNTIMES)), default=list(RUNTIMES), help=",".join(RUNTIMES))
    parser.add_argument("--batch", type=sizes, default=[1], help="batch sizes, such as 1,8; default: 1")
    parser.add_argument("--seconds", type=float, default=5, help="time for the calls of a row; default: 5")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a row ends; default: 900")
    parser.add_argument("--retry", action="store_true", help="measure rows again that have an error")
    return parser


def main():
    parser = parse(argument_parser(__doc__))
    options = start(parser)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the row's process, as Ctrl-C does
    wanted = cases(options.models, options.libraries, usable(options.runtimes), options.batch)
    try:
        fill(Results(options.results), wanted, lambda case: measured(case, options), options.retry)
    except OtherColumnsError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("stopped; the same command continues")
        sys.exit(130)


if __name__ == "__main__":
    main()
