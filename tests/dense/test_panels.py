"""regard's own kernel for dense layers: the same values as PyTorch's, and PyTorch's own path for every other call."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from budget import assert_within_budget, truth
from regard.dense import PanelConv2d, PanelLinear, constant_weights, convolve, dense, linear, mlp, panels
from regard.native import loader

pytestmark = pytest.mark.usefixtures("library")
ACTIVATIONS = {"none": nn.Identity(), "gelu": F.gelu, "gelu module": nn.GELU(), "silu": nn.SiLU(), "tanh": torch.tanh}
SIZES = [(20, 33, 20), (1, 1, 1), (257, 300, 15)]


@pytest.fixture
def served(monkeypatch):
    """Whether each call ran on the kernel."""
    answers = []

    def record(*args):
        out = panels.run_panels(*args)
        answers.append(out is not None)
        return out

    monkeypatch.setattr(linear, "run_panels", record)
    return answers


def two_layers(x, weight1, bias1, weight2, bias2, activation, residual, epsilon):
    """The definition of `mlp`."""
    x = x if epsilon is None else F.layer_norm(x, x.shape[-1:], eps=epsilon)
    out = F.linear(activation(F.linear(x, weight1, bias1)), weight2, bias2)
    return out if residual is None else out + residual


@pytest.mark.parametrize("tokens", [(1,), (3, 5, 13)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_layers(activation, sizes, tokens, served):
    first, second = PanelLinear(*sizes[:2]), PanelLinear(*sizes[1:], bias=False)
    x, residual = torch.randn(*tokens, sizes[0]), torch.randn(*tokens, sizes[2])
    activation = ACTIVATIONS[activation]
    for added, epsilon in itertools.product((None, residual), (None, 1e-5)):
        norm = None if epsilon is None else nn.LayerNorm(sizes[0], eps=epsilon, elementwise_affine=False)
        with torch.no_grad():
            out = mlp(first, second, x, activation=activation, norm=norm, residual=added)
        weights = (first.weight, first.bias, second.weight, None)
        assert_within_budget(out, truth(two_layers, x, *weights, activation, added, epsilon))
    assert all(served) or activation is torch.tanh


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_layer(activation, sizes, served):
    layer, x = PanelLinear(*sizes[:2]), torch.randn(2, sizes[0], 19).mT
    activation = ACTIVATIONS[activation]
    with torch.no_grad():
        out = dense(layer, x, activation=activation)
    assert_within_budget(out, truth(lambda *inputs: activation(F.linear(*inputs)), x, layer.weight, layer.bias))
    assert any(served) or activation is torch.tanh


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolution(activation, bias):
    layer, x = PanelConv2d(20, 33, 1, bias=bias), torch.randn(2, 20, 5, 7)
    activation = ACTIVATIONS[activation]
    expected = truth(lambda *inputs: activation(F.conv2d(*inputs)), x, layer.weight, layer.bias)
    with torch.no_grad():
        for layout in (torch.channels_last, torch.contiguous_format):
            out = convolve(layer, x.to(memory_format=layout), activation)
            assert_within_budget(out, expected)
            assert out.is_contiguous(memory_format=layout)


@torch.no_grad()
def test_activations_at_their_limits():
    layer = PanelLinear(1, 1, bias=False)
    layer.weight.fill_(1.0)
    x = torch.cat((torch.linspace(-30, 30, 10001), torch.tensor([1e30, -1e30, torch.inf, -torch.inf, torch.nan])))
    for activation in (F.gelu, F.silu):
        out = dense(layer, x.unsqueeze(-1), activation=activation).squeeze(-1)
        assert torch.equal(out.isnan(), activation(x).isnan())
        finite = x.abs() < 100
        exact = activation(x[finite].double())
        assert (out[finite].double() - exact).abs().max() <= 2e-6
        assert ((out[finite] - exact) / exact.clamp_min(1e-6))[x[finite] > 0].abs().max() <= 1e-6
        assert dense(layer, torch.tensor([[-1e30]]), activation=activation).item() == 0


@torch.no_grad()
def test_weights_that_change_are_packed_again():
    layer, x = PanelLinear(20, 33), torch.randn(4, 20)
    for change in (
        lambda: layer.weight.mul_(2),
        lambda: layer.load_state_dict(nn.Linear(20, 33).state_dict()),
        lambda: setattr(layer, "weight", nn.Parameter(torch.randn(33, 20))),
        lambda: layer.bias.add_(1),
    ):
        layer(x)
        change()
        assert_within_budget(layer(x), truth(F.linear, x, layer.weight, layer.bias))


@torch.no_grad()
def test_libraries_have_panels_of_their_own(monkeypatch):
    layer, x = PanelLinear(20, 33), torch.randn(4, 20)
    for name in loader.instruction_sets():
        monkeypatch.setattr(loader, "NATIVE", loader.load(name))
        assert_within_budget(layer(x), truth(F.linear, x, layer.weight, layer.bias))
    monkeypatch.setattr(loader, "NATIVE", loader.Native(None, "", "none"))
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_other_calls_run_on_pytorch(served):
    layer, x = PanelLinear(20, 33), torch.randn(4, 20)
    dense(layer, x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(dense(layer, x, residual=torch.ones(33)), layer(x) + 1)
        assert dense(copy.deepcopy(layer).double(), x.double()).dtype == torch.float64
        assert dense(layer, torch.randn(0, 20)).shape == (0, 33)
        with torch.autocast("cpu", torch.bfloat16):
            assert dense(layer, x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            dense(layer, torch.randn(4, 19))
        layer.register_forward_hook(lambda module, args, output: output + 1)
        dense(layer, x)
    with torch.inference_mode():
        assert dense(PanelLinear(20, 33), x).shape == (4, 33)
    assert not any(served)


def test_copies_leave_their_panels_behind():
    layer, x = PanelLinear(20, 33), torch.randn(4, 20)
    with torch.no_grad():
        expected = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert not [name for name in vars(other) if "packed" in name]
            assert torch.equal(other(x), expected)


@torch.no_grad()
def test_export_keeps_the_kernel():
    model, x = nn.Sequential(PanelLinear(20, 33), PanelConv2d(3, 4, 1)), torch.randn(3, 20)
    layer = model[0]
    expected = layer(x)
    with constant_weights(model):
        program = torch.export.export(layer, (x,))
    assert [node for node in program.graph.nodes if node.target is torch.ops.regard.dense.default]
    assert torch.equal(program.module()(x), expected)
    assert not layer.is_constant
    program = torch.export.export(layer, (x,))
    assert not [node for node in program.graph.nodes if node.target is torch.ops.regard.dense.default]


@torch.no_grad()
def test_operator():
    layer, x = PanelLinear(20, 33), torch.randn(3, 20)
    for residual, activation in ((None, "none"), (torch.randn(3, 33), "gelu")):
        arguments = (x, [layer.panels()], [layer.bias.detach()], 33, activation, residual, 1e-5)
        torch.library.opcheck(torch.ops.regard.dense.default, arguments)


@torch.no_grad()
def test_threads_compute_the_same_bits():
    first, second, x = PanelLinear(20, 64), PanelLinear(64, 20), torch.randn(67, 20)
    before, outs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 100):
            torch.set_num_threads(threads)
            outs.append(mlp(first, second, x, activation=F.gelu))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outs[0], out) for out in outs)
