"""Drop path, layer scale, MLP and the recomputation of blocks."""

import copy

import pytest
import torch
from torch import nn

from budget import assert_definition
from regard.errors import ShapeError
from regard.layers import Blocks, DropPath, LayerScale, Mlp, drop_path_rates


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    x = torch.ones(1000, 2, 3)
    out = DropPath(0.5)(x)
    assert set(out.flatten().unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    dropped = (out[:, 0, 0] == 0).float().mean().item()
    assert abs(dropped - 0.5) <= 4 * (0.5 * 0.5 / 1000) ** 0.5  # four standard deviations


@pytest.mark.parametrize("layer", [DropPath(0.0), DropPath(0.9).eval()], ids=["rate_0", "eval"])
def test_drop_path_is_the_identity(layer):
    x = torch.randn(4, 3)
    assert layer(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_refuses(rate):
    with pytest.raises(ShapeError, match=r"rate must be in \[0, 1\)"):
        DropPath(rate)


def test_drop_path_rates_rise_linearly():
    assert drop_path_rates(0.3, (1, 3)) == [[0.0], pytest.approx([0.1, 0.2, 0.3])]
    assert drop_path_rates(0.3, (1,)) == [[0.0]]


def test_layer_scale():
    layer = LayerScale(3, init=2.0)
    x = torch.randn(2, 4, 4, 3)
    assert torch.equal(layer(x), 2 * x)
    assert layer.gamma.shape == (3,)


def test_mlp_is_its_formula():
    layer = Mlp(4, 8).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    with torch.no_grad():
        assert_definition(layer, x, exact=hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_recomputed_blocks_count_a_batch_once():
    torch.manual_seed(0)
    plain = Blocks(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3)))
    again = copy.deepcopy(plain)
    again.grad_checkpointing = True
    x = torch.randn(2, 4, 5, 5)
    for blocks in (plain, again):
        blocks(x).square().sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert [norm.momentum for norm in again.modules() if isinstance(norm, nn.BatchNorm2d)] == [0.1] * 3
