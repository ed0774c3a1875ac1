"""Every program of `make bench` and its siblings starts from a shell, without the paths that pytest adds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py") if "argument_parser(" in path.read_text())


def test_programs_are_found():
    assert {"dense.py", "fuse.py", "models.py", "modules.py", "neighborhood.py", "table.py"} <= set(PROGRAMS)


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "common.py"])
def test_programs_start(name):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(FOLDER / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "--instruction-set" in done.stdout
