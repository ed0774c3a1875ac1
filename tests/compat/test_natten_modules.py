"""NATTEN's modules: one set of parameters, two generations of arguments."""

import numpy as np
import pytest
import torch
from torch import nn

from regard.attention import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    set_backend,
)
from regard.compat.natten import (
    NeighborhoodAttention1D,
    NeighborhoodAttention2D,
    NeighborhoodAttention3D,
    natten2dav,
    natten2dqkrpb,
)
from regard.errors import ShapeError, UnsupportedError

PAIRS = [
    (NeighborhoodAttention1D, NeighborhoodAttention1d, (9,)),
    (NeighborhoodAttention2D, NeighborhoodAttention2d, (6, 7)),
    (NeighborhoodAttention3D, NeighborhoodAttention3d, (3, 6, 5)),
]


@pytest.mark.parametrize(("natten_class", "ours", "grid"), PAIRS)
def test_state_dicts_fit_each_other(natten_class, ours, grid):
    one, other = natten_class(12, 3, 3, bias=True), ours(12, 3, 3)
    assert list(one.state_dict()) == ["rpb", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    x = torch.randn(2, *grid, 12)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    other.qkv.weight.data.mul_(2)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
    one = natten_class(embed_dim=12, num_heads=3, kernel_size=3)
    assert list(one.state_dict()) == ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    without = ours(12, 3, 3, rel_pos_bias=False)
    without.load_state_dict(one.state_dict())
    assert torch.equal(one(x), without(x))


def test_older_arguments():
    """NATTEN 0.14 and 0.15 have a bias by default, None for no dilation, and pad small inputs before the projection."""
    for options in ({}, {"bias": True}, {"dilation": None}):
        assert NeighborhoodAttention2D(dim=8, num_heads=2, kernel_size=5, **options).rpb.shape == (2, 9, 9)
    attention = NeighborhoodAttention2D(
        8,
        num_heads=2,
        kernel_size=5,
        dilation=2,
        bias=False,
        qkv_bias=False,
        qk_scale=0.1,
        attn_drop=0.1,
        proj_drop=0.2,
    )
    assert attention.rpb is None and attention.qkv.bias is None
    assert (attention.scale, attention.attn_drop.p, attention.proj_drop.p) == (0.1, 0.1, 0.2)
    assert attention.window_size == 10

    attention = NeighborhoodAttention2D(8, num_heads=2, kernel_size=5, dilation=2)
    ours = NeighborhoodAttention2d(8, 2, 5, dilation=2, small_grid="pad")
    ours.load_state_dict(attention.state_dict())
    x = torch.randn(1, 3, 12, 8)
    assert torch.equal(attention(x), ours(x))


def test_depth_apart():
    """NATTEN 0.15 has separate arguments for the first of three axes."""
    attention = NeighborhoodAttention3D(8, 2, 5, kernel_size_d=3, dilation=2)
    assert (attention.kernel_size, attention.dilation) == ((3, 5, 5), (2, 2, 2))
    attention = NeighborhoodAttention3D(8, 2, kernel_size=5, dilation_d=3)
    assert (attention.kernel_size, attention.dilation) == ((5, 5, 5), (3, 1, 1))
    assert attention(torch.randn(1, 2, 6, 4, 8)).shape == (1, 2, 6, 4, 8)  # padded, depth too
    attention = NeighborhoodAttention3D(8, 2, np.int64(5), kernel_size_d=np.int64(3))
    assert attention.kernel_size == (3, 5, 5) and attention.window_size == 5 and attention.rpb is not None
    with pytest.raises(UnsupportedError, match=r"0\.15 has kernel_size_d, later ones have a kernel_size per axis"):
        NeighborhoodAttention3D(8, 2, (5, 5, 5), kernel_size_d=3)
    with pytest.raises(TypeError, match="dilation_d is an argument of NeighborhoodAttention3D"):
        NeighborhoodAttention2D(8, 2, 5, dilation_d=3)


@pytest.mark.parametrize(
    "options",
    [
        {"rel_pos_bias": False},
        {"rel_pos_bias": True},
        {"is_causal": False},
        {"is_causal": None},
        {"stride": 1},
        {"use_experimental_ops": False},
        {"kernel_size": (5, 3)},
        {"kernel_size": [5, 5]},
        {"kernel_size": 4},
        {"dilation": (1, 1)},
    ],
    ids=str,
)
def test_newer_arguments(options):
    """NATTEN 0.17 and later have a bias only on request, and no padding."""
    attention = NeighborhoodAttention2D(dim=8, num_heads=2, **{"kernel_size": 5, **options})
    assert (attention.rpb is not None) == options.get("rel_pos_bias", False)
    with pytest.raises(ShapeError, match=r"must fit the grid .* make them smaller or the input larger"):
        attention(torch.randn(1, 3, 7, 8))


@pytest.mark.parametrize(("natten_class", "grid"), [(natten_class, grid) for natten_class, _, grid in PAIRS])
def test_sizes_per_axis_mark_newer_arguments(natten_class, grid):
    rank = len(grid)
    for options in ({"kernel_size": (3,) * rank}, {"kernel_size": 3, "dilation": [1] * rank}, {"kernel_size": 2}):
        attention = natten_class(12, 3, **options)
        assert attention.rpb is None and attention.small_grid == "error"
    attention = natten_class(12, 3, 3)
    assert attention.rpb is not None and attention.small_grid == "pad"


@pytest.mark.parametrize("natten_class", [NeighborhoodAttention1D, NeighborhoodAttention2D])
def test_ones_need_no_name(natten_class):
    """1 is the default of both the dilation and the stride."""
    attention = natten_class(8, 2, 3, 1)
    assert set(attention.dilation) == set(attention.stride) == {1} and attention.rpb is not None
    assert natten_class(8, 2, 3, (1,) * natten_class.axes).rpb is None  # one per axis is of 0.17 or later
    with pytest.raises(TypeError, match="must be named"):
        natten_class(8, 2, 3, 1, False)


def test_stride_and_causality():
    options = {"stride": (2, 3), "dilation": (1, 2), "is_causal": (True, False)}
    attention = NeighborhoodAttention2D(embed_dim=8, num_heads=2, kernel_size=4, **options)
    ours = NeighborhoodAttention2d(8, 2, 4, rel_pos_bias=False, **options)
    ours.load_state_dict(attention.state_dict())
    x = torch.randn(1, 9, 8, 8)
    assert torch.equal(attention(x), ours(x))


def test_scale():
    attention = NeighborhoodAttention1D(8, 2, 3, bias=False)
    scaled = NeighborhoodAttention1D(8, 2, 3, bias=False, qk_scale=2 * attention.scale)
    scaled.load_state_dict(attention.state_dict())
    x = torch.randn(1, 7, 8)
    assert not torch.allclose(attention(x), scaled(x))
    attention.qkv.weight.data[:8] *= 2
    attention.qkv.bias.data[:8] *= 2
    assert torch.equal(attention(x), scaled(x))  # doubling is exact

    ours = NeighborhoodAttention1d(8, 2, 3, rel_pos_bias=False, scale=scaled.scale)
    ours.load_state_dict(scaled.state_dict())
    assert torch.equal(ours(x), scaled(x)) and NeighborhoodAttention1d(8, 2, 3).scale == 4**-0.5
    with pytest.raises(TypeError, match="scale must be a number, got str"):
        NeighborhoodAttention1d(8, 2, 3, scale="0.5")


def test_gradients_mixed_precision_and_backend():
    attention = NeighborhoodAttention2D(8, num_heads=2, kernel_size=3)
    set_backend(attention, "reference")
    assert attention.backend == "reference"
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(torch.randn(1, 5, 5, 8))
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attention.parameters())


def test_dropout():
    attention = NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(1, 5, 5, 8)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_dropout_of_weights_is_a_layer():
    """As in NATTEN, a subclass may call the dropout layer, and a caller may change it or switch it off."""
    attention = NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5)
    x = torch.randn(1, 5, 5, 8)
    assert attention.attn_drop(torch.ones(1000)).eq(0).any()
    assert not torch.equal(attention(x), attention(x))
    attention.attn_drop.eval()
    assert torch.equal(attention(x), attention(x))
    attention.attn_drop.train().p = 0.0
    assert torch.equal(attention(x), attention(x))


def test_a_subclass_on_the_functions():
    """A subclass with its own forward pass, written for the module attributes of NATTEN 0.14."""

    class Own(NeighborhoodAttention2D):
        def forward(self, x):
            sizes = [*x.shape[:3], 3, self.num_heads, self.head_dim]
            query, key, value = self.qkv(x).reshape(sizes).permute(3, 0, 4, 1, 2, 5)
            weights = natten2dqkrpb(query * self.scale, key, self.rpb, self.kernel_size, self.dilation)
            weights = self.attn_drop(weights.softmax(-1))
            out = natten2dav(weights, value, self.kernel_size, self.dilation)
            return self.proj_drop(self.proj(out.permute(0, 2, 3, 1, 4).flatten(3)))

    own = Own(8, 2, 3, dilation=2).double()
    natten_module = NeighborhoodAttention2D(8, 2, 3, dilation=2).double()
    natten_module.load_state_dict(own.state_dict())
    x = torch.randn(2, 7, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(own(x), natten_module(x))


def test_a_module_that_natten_pickled():
    """Unpickling finds the class and restores NATTEN's attributes, and the weights can be loaded from the result."""
    pickled = nn.Module()
    pickled.num_heads, pickled.kernel_size, pickled.dilation, pickled.window_size = 2, 3, 1, 3
    pickled.qkv, pickled.proj, pickled.rpb = nn.Linear(8, 24), nn.Linear(8, 8), nn.Parameter(torch.rand(2, 5, 5))
    found = NeighborhoodAttention2D.__new__(NeighborhoodAttention2D)
    found.__setstate__(vars(pickled))
    anew = NeighborhoodAttention2D(8, 2, 3)
    anew.load_state_dict(found.state_dict())
    assert torch.equal(anew.rpb, pickled.rpb)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            ((8, 2, 3, 2), {}, TypeError, "dilation in NATTEN up to 0.17 and the stride since 0.20"),
            ((8, 2), {}, TypeError, "kernel_size are required, got 8, 2 and None"),
            ((8, 2, 3), {"embed_dim": 8}, TypeError, "names of one argument"),
            ((8, 2, 3), {"bias": True, "stride": 2}, UnsupportedError, "0.15 has bias, later ones have stride"),
            ((8, 2, 4), {"bias": False}, UnsupportedError, "later ones have an even kernel_size"),
            ((8, 2, (3, 3)), {"bias": True}, UnsupportedError, "later ones have a kernel_size per axis"),
            ((64, 7, 2), {}, ShapeError, "multiple of num_heads"),  # the order of 0.14.4: kernel_size first
            ((8, 3, 3), {}, ShapeError, "multiple of num_heads"),
            ((8, 2, 3), {"dilaton": 2}, TypeError, "dilaton"),
            ((8, 2, "3"), {}, TypeError, "whole number"),
            ((8, 2, 3), {"qk_scale": "x"}, TypeError, "scale must be a number"),
            ((8, 2, 3), {"qk_scale": float("nan")}, ShapeError, "qk_scale must be finite"),
            ((8, 2, 3), {"bias": "no"}, TypeError, "bias must be True or False, got 'no'"),
            ((8, 2, 3), {"rel_pos_bias": 1}, TypeError, "rel_pos_bias must be True or False"),
        ],
    )
    def test_arguments(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            NeighborhoodAttention2D(*arguments, **options)

    @pytest.mark.parametrize("unnamed", [1, 3, (1, 1, 1)])
    def test_depth_is_named(self, unnamed):
        with pytest.raises(
            TypeError, match=r"kernel_size_d in NATTEN 0\.15, the dilation in 0\.17 and the stride since"
        ):
            NeighborhoodAttention3D(8, 2, 3, unnamed)

    def test_input(self):
        with pytest.raises(ShapeError, match="x must have 4 dimensions"):
            NeighborhoodAttention2D(4, 2, 3)(torch.zeros(2, 6, 4))
        with pytest.raises(ShapeError, match="x must have 4 dimensions"):
            NeighborhoodAttention2D(4, 2, 3, stride=1)(torch.zeros(2, 6, 4))
