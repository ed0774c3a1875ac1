"""Test, measure and profile the GPU kernels on this machine's GPU, within eight minutes: `make gpu`.

    python benchmarks/gpu.py [--out FOLDER]

The tests run in several processes, since most of their time goes into compiling. Parts that take too long are stopped.
The folder gets tests.txt, figures.txt (times, ceilings, and the kernels that take most of each) and figures.json.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TESTS_SECONDS, FIGURES_SECONDS = 240, 210


def commands(out):
    """Return (title, seconds, arguments of Python) of each part."""
    workers = ["--numprocesses", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []
    tests = ["-m", "pytest", "--quiet", "-p", "gpu.instant", *workers, "tests/gpu"]
    figures = ["benchmarks/gpu_kernels.py", "--out", str(out / "figures.json")]
    return ("tests", TESTS_SECONDS, tests), ("figures", FIGURES_SECONDS, figures)


def run(title, seconds, arguments, out):
    """Run a part, show and keep what it prints, and return how it ended."""
    begin, file = time.monotonic(), out / f"{title}.txt"
    with file.open("w") as stream:
        try:
            code = subprocess.run(
                [sys.executable, "-u", *arguments], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
            end = "passed" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {seconds} s, before its end"
    print(file.read_text(errors="replace")[-8000:])
    return f"{title}: {end}, {time.monotonic() - begin:.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    out = parser.parse_args().out.resolve()
    if not torch.cuda.is_available():
        sys.exit("expected a GPU that PyTorch can use, got none; make test-triton and make resources need no GPU")
    out.mkdir(parents=True, exist_ok=True)
    ends = [run(*part, out) for part in commands(out)]
    print("\n".join(ends))
    sys.exit(any("passed" not in end for end in ends))


if __name__ == "__main__":
    main()
