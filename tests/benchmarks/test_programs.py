"""Every program of `make bench` and its siblings starts from a shell, without the paths that pytest adds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import common
from attention.kernels import INSTRUCTION_SETS, needs_native
from regard.attention import native_library
from regard.benchmark import machine
from regard.native import loader

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py") if "argument_parser(" in path.read_text())


def test_programs_are_found():
    assert {"bars.py", "dense.py", "fuse.py", "training.py"} <= set(PROGRAMS)


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "common.py"])
def test_programs_start(name):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(FOLDER / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "--instruction-set" in done.stdout


@pytest.fixture
def defaults(monkeypatch):
    """Restore the library and the number of threads, and make the measurement of the ceilings fast."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(loader, "NATIVE", loader.NATIVE)
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "ELEMENTS", 1000)
    yield
    torch.set_num_threads(threads)


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_library_by_argument(name, defaults, capsys):
    common.start(common.argument_parser("a benchmark"), ["--instruction-set", name, "--threads", "1"])
    assert native_library().instruction_set == name and torch.get_num_threads() == 1
    printed = capsys.readouterr().out
    assert f"library {name};" in printed and "1 thread;" in printed and "torch.mm" in printed


def test_library_of_another_processor(defaults, capsys):
    with pytest.raises(SystemExit):
        common.start(common.argument_parser("a benchmark"), ["--instruction-set", "pdp11"])
    assert f"choose one of {', '.join(INSTRUCTION_SETS)}" in capsys.readouterr().err
