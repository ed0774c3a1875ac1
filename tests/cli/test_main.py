"""`python -m regard`, which launchers call."""

import os
import subprocess
import sys

import pytest

from regard.training import Run

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("module", ["regard", "regard.cli"])
def test_the_module_is_the_command_line(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("regard ")


@pytest.mark.exhaustive
def test_torchrun(tmp_path):
    """The first process speaks for all."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--model", "nat_nano", "--data", "digits", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    small = ["--set", "embed_dim=16", "--set", "depths=1,1,1", "--out", str(tmp_path / "run")]
    command = [*launcher, "-m", "regard", "train", *options, *small]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert done.stdout.count("epoch   1/1") == done.stdout.count("done: ") == 1
    assert "2 processes" in done.stdout
    run = Run.open(tmp_path / "run")
    assert run.config.processes == 2 and run.unfinished() is None
