"""What the tests of dense layers share: a seed, and every library of kernels in turn."""

import pytest
import torch

from regard.native import loader


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=loader.instruction_sets())
def library(request, monkeypatch):
    """Every library that runs on this processor. An install without a compiler has none, and PyTorch's path serves."""
    native = loader.load(request.param)
    if native.library is None:
        pytest.skip(f"no kernels in this install: {native.problem}")
    monkeypatch.setattr(loader, "NATIVE", native)
