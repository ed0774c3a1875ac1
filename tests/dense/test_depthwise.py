"""Blocks around a depth-wise convolution: the values of their layers, one after the other."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from budget import assert_within_budget, truth
from regard.dense import (
    DepthwiseConv2d,
    PackedConv2d,
    PanelConv2d,
    PanelLinear,
    constant_weights,
    depthwise,
    depthwise_block,
)

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture
def served(monkeypatch):
    """Whether each call ran on the kernel."""
    answers, run = [], depthwise._run

    def record(*args):
        out = run(*args)
        answers.append(out is not None)
        return out

    monkeypatch.setattr(depthwise, "_run", record)
    return answers


def image(batch, channels, height, width):
    return torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)


def inverted(x, first, bias, taps, layer, last, options, residual):
    """The definition of an inverted residual."""
    hidden = F.silu(F.conv2d(x, first, bias))
    hidden = F.silu(F.conv2d(hidden, taps, groups=len(taps), **options))
    out = F.conv2d(hidden, layer, last)
    return out + x if residual else out


def local(x, taps, bias, first, first_bias, second):
    """The definition of SwiftFormer's block."""
    hidden = F.conv2d(x, taps, bias, padding=len(taps[0, 0]) // 2, groups=len(taps)).permute(0, 2, 3, 1)
    return F.linear(F.gelu(F.linear(hidden, first, first_bias)), second).permute(0, 3, 1, 2) + x


GRIDS = [(1, 5, 7), (2, 9, 4), (3, 1, 1), (1, 33, 40)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (7, 2, 3), (1, 1, 0)])
def test_inverted_residual(size, stride, padding, grid, served):
    batch, height, width = grid
    options = {"stride": stride, "padding": padding}
    first, last = PanelConv2d(24, 37, 1), PanelConv2d(37, 24, 1)
    middle = DepthwiseConv2d(37, 37, size, groups=37, bias=False, **options)
    x = image(batch, 24, height, width)
    weights = (first.weight, first.bias, middle.weight, last.weight, last.bias)
    for residual in (False, True)[: 2 if stride == 1 else 1]:
        with torch.no_grad():
            out = depthwise_block(x, middle, [last], (nn.SiLU(), F.silu, None), before=first, residual=residual)
        assert_within_budget(out, truth(inverted, x, *weights, options, residual))
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert all(served)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("channels", "size"), [(16, 3), (48, 3), (220, 3), (19, 5)])
def test_two_layers_after_it(channels, size, grid, served):
    batch, height, width = grid
    middle = DepthwiseConv2d(channels, channels, size, padding=size // 2, groups=channels)
    layers = [PanelLinear(channels, 2 * channels), PanelLinear(2 * channels, channels, bias=False)]
    x = image(batch, channels, height, width)
    expected = truth(local, x, middle.weight, middle.bias, layers[0].weight, layers[0].bias, layers[1].weight)
    with torch.no_grad():
        out = depthwise_block(x, middle, layers, (None, None, nn.GELU()), residual=True)
    assert_within_budget(out, expected)
    assert served == [True]


@torch.no_grad()
def test_threads_compute_the_same_bits():
    middle = DepthwiseConv2d(32, 32, 3, padding=1, groups=32)
    first, last = PanelConv2d(16, 32, 1), PanelConv2d(32, 16, 1)
    before, outs, x = torch.get_num_threads(), [], image(3, 16, 13, 11)
    try:
        for threads in (1, 2, 5, 40):
            torch.set_num_threads(threads)
            outs.append(depthwise_block(x, middle, [last], (None, F.gelu, None), before=first))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outs[0], out) for out in outs)


@torch.no_grad()
def test_nan_stays_in_its_neighborhood():
    middle = DepthwiseConv2d(16, 16, 3, padding=1, groups=16)
    last, x = PanelConv2d(16, 16, 1), image(1, 16, 9, 9)
    x[0, 3, 4, 4] = torch.nan
    out = depthwise_block(x, middle, [last], (None, F.silu, None))
    expected = last(F.silu(F.conv2d(x, middle.weight, middle.bias, padding=1, groups=16)))
    assert torch.equal(out.isnan(), expected.isnan())


def test_other_calls_run_on_the_layers(served):
    middle, last = DepthwiseConv2d(24, 24, 3, padding=1, groups=24), PanelConv2d(24, 24, 1)
    x, activations = image(2, 24, 6, 6), (None, F.silu, None)
    expected = truth(
        lambda *args: F.conv2d(F.silu(F.conv2d(*args[:3], padding=1, groups=24)), *args[3:]),
        x,
        middle.weight,
        middle.bias,
        last.weight,
        last.bias,
    )
    with torch.enable_grad():
        depthwise_block(x, middle, [last], activations).sum().backward()
    assert middle.weight.grad is not None
    with torch.no_grad():
        for other, given in (
            (PackedConv2d(24, 24, 3, padding=1, groups=24), x),
            (middle, x.contiguous()),
        ):
            other.load_state_dict(middle.state_dict())
            assert_within_budget(depthwise_block(given, other, [last], activations), expected)
        assert depthwise_block(x, middle, [last], (None, torch.tanh, None)).shape == x.shape
        small = DepthwiseConv2d(4, 4, 3, padding=1, groups=4)
        assert depthwise_block(x[:, :4], small, [PanelConv2d(4, 4, 1)], activations).shape == (2, 4, 6, 6)
        with pytest.raises(RuntimeError):
            depthwise_block(image(2, 20, 6, 6), middle, [last], activations)
        with pytest.raises(RuntimeError):
            depthwise_block(x, middle, [PanelConv2d(20, 24, 1)], activations)
    assert not any(served)


@torch.no_grad()
def test_weights_that_change_are_packed_again():
    middle, last = DepthwiseConv2d(24, 24, 3, padding=1, groups=24), PanelConv2d(24, 24, 1)
    x = image(2, 24, 6, 6)
    for change in (lambda: middle.weight.mul_(2), lambda: last.weight.mul_(2), lambda: middle.bias.add_(1)):
        depthwise_block(x, middle, [last], (None, None, None))
        change()
        out = depthwise_block(x, middle, [last], (None, None, None))
        plain = [one.weight.new_tensor(one.weight.tolist()) for one in (middle, last)]
        expected = F.conv2d(F.conv2d(x, plain[0], middle.bias, padding=1, groups=24), plain[1], last.bias)
        assert torch.allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_which_convolutions_are_depthwise():
    def accepts(*sizes, **options):
        return DepthwiseConv2d.accepts(nn.Conv2d(*sizes, **options))

    assert accepts(24, 24, 3, padding=1, groups=24)
    assert not accepts(24, 24, 3, padding=1, groups=12)
    assert not accepts(24, 48, 3, padding=1, groups=24)
    assert not accepts(24, 24, (3, 5), groups=24)
    assert not accepts(24, 24, 3, groups=24, dilation=2)
    assert not accepts(24, 24, 3, groups=24, padding="same")
    assert not accepts(24, 24, 3, groups=24, padding=1, padding_mode="reflect")
    assert not accepts(24, 24, 9, groups=24)
    assert not PanelConv2d.accepts(nn.Conv2d(24, 24, 3))
    assert not PanelConv2d.accepts(nn.Conv2d(24, 24, 1, stride=2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.middle, self.last = DepthwiseConv2d(24, 24, 3, padding=1, groups=24), PanelConv2d(24, 24, 1)

    def forward(self, x):
        return depthwise_block(x, self.middle, [self.last], (None, F.silu, None), residual=True)


@torch.no_grad()
def test_operator_and_export():
    block, x = Block(), image(2, 24, 6, 6)
    expected = block(x)
    with constant_weights(block):
        program = torch.export.export(block, (x,))
    assert [node for node in program.graph.nodes if node.target is torch.ops.regard.depthwise.default]
    assert torch.equal(program.module()(x), expected)
    for before, residual in itertools.product((None, PanelConv2d(24, 24, 1)), (False, True)):
        panels = (None, None) if before is None else (before.panels(), before.bias.detach())
        taps = (block.middle.taps(), block.middle.bias.detach(), 3, 1, 1)
        layers = ([block.last.panels()], [None], [0 if before is None else 24, 24, 0], ["none", "silu", "none"])
        arguments = (x.permute(0, 2, 3, 1), *panels, *taps, *layers, residual)
        torch.library.opcheck(torch.ops.regard.depthwise.default, arguments)
