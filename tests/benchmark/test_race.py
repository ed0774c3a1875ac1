"""Races: equal work is checked, what fails is left out with its reason, ratios are those of the rounds."""

import pytest
import torch

from regard import OptionError
from regard.benchmark import Contender, Size, measure, measure_kernels, race
from regard.benchmark.kernels import KERNEL_PEERS, ON_CPU, ON_GPU, neighborhood
from regard.benchmark.peers import MODULES, PEERS, contenders, problem_of
from regard.benchmark.race import relative_difference

X = torch.randn(4, 5, requires_grad=True)


def fail():
    raise ValueError("not\ntoday")


def test_a_race():
    ours = Contender("regard", lambda: X * 2, [X])
    transposed = Contender("transposed", lambda: X.T * 2, [X], restore=lambda out: out.T)
    one, other = race([ours, transposed], 0.0, training=True)
    assert (one.ratio, one.ratio_training, one.difference, one.problem) == (1.0, 1.0, 0.0, "")
    assert other.difference == 0.0 and other.ratio > 0 and other.training.median > 0


def test_what_fails_is_not_timed():
    ours = Contender("regard", lambda: X * 2, [X])
    results = race([ours, Contender("wrong", lambda: X * 3, [X]), Contender("broken", fail)], 0.0, training=False)
    assert [one.problem for one in results] == ["", "its output differs by 5.0e-01", "ValueError: not"]
    assert [one.forward is None for one in results] == [False, True, True]


def test_without_gradients():
    """A peer that computes forward only keeps its forward times."""
    constant = X.detach()
    _, other = race([Contender("a", lambda: X * 2, [X]), Contender("b", lambda: constant * 2, [X])], 0.0, training=True)
    assert other.forward is not None and other.training is None
    assert other.problem.startswith("no gradients: ")


def test_our_failures_are_errors():
    with pytest.raises(ValueError, match="not"):
        race([Contender("regard", fail)], 0.0, training=False)


def test_difference():
    expected = torch.tensor([1.0, -4.0])
    assert relative_difference(torch.tensor([1.0, -3.0], dtype=torch.bfloat16), expected) == 0.25
    with pytest.raises(ArithmeticError, match="not finite"):
        relative_difference(torch.tensor([1.0, torch.nan]), expected)


COMPILED = [pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in MODULES if pair[0] == "flex"]
OTHERS = [pair for pair in MODULES if pair[0] != "flex" and not problem_of(pair[0])]


@pytest.mark.parametrize(("peer", "mechanism"), [*OTHERS, *COMPILED])
def test_peers_compute_the_same(peer, mechanism):
    ours, other = measure(Size((14, 14), 16, 2), [mechanism], peers=[peer], seconds=0.0, training=True)
    assert other.result.library == peer and (other.result.problem == "" or peer == "flex")
    assert 0 <= other.result.difference < 1e-5
    assert other.result.training is not None or peer == "flex"  # which has no gradients on the CPU
    assert ours.flops == other.flops


@pytest.mark.parametrize("peer", ["timm", "torchvision"])
def test_peers_in_another_dtype(peer):
    size = Size((14, 14), 16, 2, dtype=torch.bfloat16)
    ours, other = measure(size, ["window"], peers=[peer], seconds=0.0, training=True)
    assert (other.result.library, other.result.problem) == (peer, "")
    assert other.result.training is not None
    [exact] = measure(Size((14, 14), 16, 2), ["window"], seconds=0.0, training=False)
    assert ours.size.columns["dtype"] == "bfloat16" and 2 * ours.traffic == exact.traffic


def test_missing_peers_are_said(monkeypatch):
    monkeypatch.setattr("regard.benchmark.peers.find_spec", lambda package: None)
    lines = []
    [one] = measure(Size((7, 7), 8, 2), ["softmax"], peers=["timm"], seconds=0.0, training=False, report=lines.append)
    assert one.result.library == "regard" and lines == ["timm: timm is not installed"]


def test_unknown_peers():
    with pytest.raises(OptionError, match="unknown peer 'tim'; did you mean 'timm'"):
        contenders("softmax", torch.nn.Identity(), X, ["tim"])
    with pytest.raises(OptionError, match="unknown peer 'fex'; did you mean 'flex'"):
        list(measure_kernels([], peers=["fex"]))
    assert problem_of("onnxruntime", "cuda") == "it is measured on CPUs only, not on cuda"
    assert {"timm", "compiled", "onnxruntime", "openvino", "flex", "natten"} <= set(PEERS)


@pytest.mark.parametrize("kernel", [neighborhood(1, (5, 6), 2, 8, (3, 3), bias=True), *ON_CPU[:2]], ids=str)
def test_kernels(kernel):
    ours, reference, *others = measure_kernels([kernel], peers=["reference", "sdpa", "natten"], seconds=0.0)
    assert reference.result.problem == "" and reference.result.training is not None
    assert [one.result.library for one in others] == (["sdpa"] if kernel.mechanism == "softmax" else [])
    assert ours.traffic > 0 and ours.size.columns["dtype"] == "float32"


def test_operations_of_kernels():
    [one] = measure_kernels([neighborhood(2, (9, 9), 3, 8, (5, 5))], seconds=0.0, training=False)
    assert one.flops == 4 * 2 * 81 * 3 * 25 * 8
    assert one.traffic == 4 * (4 * 2 * 81 * 3 * 8)


def test_large_references_are_left_out():
    [large] = [kernel for kernel in ON_GPU if "80x80" in str(kernel)]
    tensors = {"query": torch.empty(0)}
    assert KERNEL_PEERS["reference"](large, tensors) is None


def test_kernels_of_both_devices_cover_all_mechanisms():
    for kernels in (ON_CPU, ON_GPU):
        assert len({kernel.mechanism for kernel in kernels}) == 7
        assert len(set(map(str, kernels))) >= len(kernels) - 2
