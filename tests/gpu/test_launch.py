"""What can be said of the GPU kernels without a GPU: why none serves, and how a call is divided."""

from contextlib import nullcontext
from math import prod
from types import SimpleNamespace

import pytest
import torch

from regard.attention.neighborhood import gpu as neighborhood
from regard.attention.neighborhood.gpu_plan import box
from regard.gpu import launch


@pytest.fixture
def triton(monkeypatch):
    """Set the version of Triton that seems to be installed."""

    def set_version(version):
        monkeypatch.setattr(launch, "TRITON", version)

    set_version(launch.MIN_TRITON)
    return set_version


def test_triton_is_missing(triton):
    triton(None)
    assert launch.reasons(torch.zeros(1)) == ["Triton is not installed; install it with: pip install triton"]


def test_triton_is_too_old(triton):
    triton((3, 4))
    assert launch.reasons(torch.zeros(1)) == ["the GPU kernels need Triton 3.5 or newer, got 3.4; upgrade PyTorch"]
    triton((4, 0))
    assert launch.reasons(torch.zeros(1)) == []


def test_version_of_triton():
    version = pytest.importorskip("triton").__version__
    assert version.startswith(".".join(map(str, launch.TRITON)))


def test_reasons(triton):
    assert launch.head_reasons(torch.zeros(2, 256), torch.zeros(2, 8)) == []
    assert launch.head_reasons(torch.zeros(2, 8), torch.zeros(2, 257)) == ["heads have more than 256 channels"]
    (reason,) = launch.reasons(torch.zeros(1, dtype=torch.float64))
    assert reason == "the GPU kernels serve float32, bfloat16 and float16, not torch.float64"


@pytest.mark.parametrize(("major", "is_served"), [(7, False), (8, True), (12, True)])
def test_old_gpus(monkeypatch, triton, major, is_served):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    tensor = SimpleNamespace(dtype=torch.float16, device=torch.device("cuda", 0))
    assert (launch.reasons(tensor) == []) == is_served


@pytest.mark.parametrize("max_width", [16, 32, 256])
@pytest.mark.parametrize("channels", range(1, 257))
def test_channels_are_covered_by_few(channels, max_width):
    dim, first, *rest = launch.sizes(channels, max_width)
    widths = [first, *rest]
    assert dim == channels and sum(widths[:-1]) < channels <= sum(widths)
    assert all(width >= 16 and width & (width - 1) == 0 for width in widths)
    assert set(widths[:-1]) <= {first} and widths[-1] <= first <= max_width
    assert sum(widths) <= max(16, 2 * channels) and (len(widths) <= 2 or first == max_width)


def test_72_and_80_channels_are_not_128():
    assert launch.sizes(72)[1:] == launch.sizes(80)[1:] == (64, 16)


def test_rows_of_float32_are_not_kept():
    assert launch.rows(torch.float32, 72, 32) == {"SIZES": (72, 32, 32, 16), "VALUE_SIZES": (32, 32), "KEEP": False}
    assert launch.rows(torch.float16, 72, 32) == {"SIZES": (72, 64, 16), "VALUE_SIZES": (32, 32), "KEEP": True}


@pytest.mark.parametrize(("major", "expected"), [(8, "sm_80"), (9, "sm_90"), (10, "sm_90"), (12, "sm_80")])
def test_architectures(monkeypatch, major, expected):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert launch.architecture(SimpleNamespace(device=torch.device("cuda", 0))) == expected
    assert launch.architecture(SimpleNamespace(device=torch.device("xpu", 0))) == "sm_80"
    assert launch.architecture(torch.zeros(1)) == "sm_90"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert launch.architecture(SimpleNamespace(device=torch.device("cuda", 0))) == "gfx942"


def test_large_tensors():
    """A small view of a large tensor has large offsets too; so has a contiguous gradient of a large expanded one."""
    small, large = torch.empty(4, device="meta"), torch.empty(2**31, device="meta")
    assert not launch.is_large(small, small)
    assert launch.is_large(small, large[:: 2**29]) and launch.is_large(small.expand(2**29, 4))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_large_gradient_is_read_with_large_offsets(monkeypatch, direction):
    found, shape = [], (1, 6, 1, 16)
    monkeypatch.setattr(launch.Kernels, "launch", lambda *_, **constants: found.append(constants["LARGE"]))
    query, small = torch.empty(2, *shape, device="meta")
    large = torch.empty(2**31, device="meta").as_strided(shape, (1, 2**28, 16, 1))
    options = ((3,), (1,), (1,), (False,), None, 1.0)
    statistics = torch.empty(2, *shape[:-1], device="meta").unbind()
    if direction == "forward":
        neighborhood.forward(small, *statistics, query, query, query, *options)
    else:
        grads = [small, small, small, *[None] * 6]
        neighborhood.backward(grads, large, query, query, query, *options, small, *statistics)
    assert set(found) == {direction == "backward"}


@pytest.mark.parametrize("members", [(1, 1, 7), (1, 56, 56), (1, 3, 50), (30, 48, 80), (1, 1, 1)])
@pytest.mark.parametrize("positions", [16, 64, 128])
def test_boxes(members, positions):
    """A box is not longer than an axis needs, but for the last axis, up to the rows of a product."""
    sides = box(positions, members)
    assert 16 <= prod(sides) <= positions
    assert all(side < 2 * length for side, length in zip(sides[:-1], members[:-1], strict=True))


def test_precision_follows_pytorch():
    """Also where it was set the way that makes `torch.get_float32_matmul_precision` raise an error."""
    tensor, matmul = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 0)), torch.backends.cuda.matmul
    before, newer = torch.get_float32_matmul_precision(), getattr(matmul, "fp32_precision", None)
    try:
        torch.set_float32_matmul_precision("highest")
        assert launch.precision(tensor) == "tf32x3"
        torch.set_float32_matmul_precision("high")
        assert launch.precision(tensor) == "tf32"
        if hasattr(matmul, "fp32_precision"):
            torch.set_float32_matmul_precision("highest")
            matmul.fp32_precision = "tf32"
            assert launch.precision(tensor) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
        if newer is not None:
            matmul.fp32_precision = newer


def test_forms_are_kept_within_limits(monkeypatch):
    """A program of many shapes does not keep a form of each."""
    monkeypatch.setattr(launch, "MAX_COMPILED", 3)
    kernels = launch.Kernels("a file")
    monkeypatch.setattr(kernels, "_kernel", lambda name: Launched())
    monkeypatch.setattr(torch, "meta", SimpleNamespace(device_of=lambda tensor: nullcontext()), raising=False)
    for size in range(10):
        kernels.launch("one", 1, torch.empty(1, device="meta"), size)
        assert 1 <= len(kernels._compiled) <= 3


class Launched:
    """A kernel that can be launched and does nothing."""

    params = ()

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self
