"""What `make demo` prints before it runs the demo."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_demo_shows_the_progress_of_the_installation(tmp_path):
    command = ["make", "--dry-run", "--no-print-directory", f"VENV={tmp_path / 'none'}", "demo"]
    root = Path(__file__).parents[2]
    lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    (install,) = (index for index, line in enumerate(lines) if "--editable" in line)
    before = " ".join(lines[:install])
    assert "several GB" in before and "CPU wheels" in before
    assert not any(option in lines[install].split() for option in ("--quiet", "-q"))
    assert "regard demo" in lines[-1]
