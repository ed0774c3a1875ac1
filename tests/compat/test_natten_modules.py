"""NATTEN's modules: one set of parameters, two generations of arguments."""

import pytest
import torch

from regard.attention import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    set_backend,
)
from regard.compat.natten import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D
from regard.errors import ShapeError, UnsupportedError

PAIRS = [
    (NeighborhoodAttention1D, NeighborhoodAttention1d, (9,)),
    (NeighborhoodAttention2D, NeighborhoodAttention2d, (6, 7)),
    (NeighborhoodAttention3D, NeighborhoodAttention3d, (3, 6, 5)),
]


@pytest.mark.parametrize(("theirs", "ours", "grid"), PAIRS)
def test_state_dicts_fit_each_other(theirs, ours, grid):
    one, other = theirs(12, 3, 3, bias=True), ours(12, 3, 3)
    assert list(one.state_dict()) == ["rpb", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    x = torch.randn(2, *grid, 12)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    other.qkv.weight.data.mul_(2)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
    one = theirs(embed_dim=12, num_heads=3, kernel_size=3)
    assert list(one.state_dict()) == ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    without = ours(12, 3, 3, rel_pos_bias=False)
    without.load_state_dict(one.state_dict())
    assert torch.equal(one(x), without(x))


def test_older_arguments():
    """NATTEN 0.14 and 0.15: a bias unasked, None for no dilation, and small inputs padded before the projection."""
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
    assert (attention.scale, attention.attn_drop, attention.proj_drop.p) == (0.1, 0.1, 0.2)

    attention = NeighborhoodAttention2D(8, num_heads=2, kernel_size=5, dilation=2)
    ours = NeighborhoodAttention2d(8, 2, 5, dilation=2, small_grid="pad")
    ours.load_state_dict(attention.state_dict())
    x = torch.randn(1, 3, 12, 8)
    assert torch.equal(attention(x), ours(x))


def test_depth_apart():
    """NATTEN 0.15 has arguments of their own for the first of three axes."""
    attention = NeighborhoodAttention3D(8, 2, 5, kernel_size_d=3, dilation=2)
    assert (attention.kernel_size, attention.dilation) == ((3, 5, 5), (2, 2, 2))
    attention = NeighborhoodAttention3D(8, 2, kernel_size=5, dilation_d=3)
    assert (attention.kernel_size, attention.dilation) == ((5, 5, 5), (3, 1, 1))
    assert attention(torch.randn(1, 2, 6, 4, 8)).shape == (1, 2, 6, 4, 8)  # padded, depth too
    with pytest.raises(TypeError, match="one whole number beside kernel_size_d"):
        NeighborhoodAttention3D(8, 2, (5, 5, 5), kernel_size_d=3)


@pytest.mark.parametrize(
    "options", [{"rel_pos_bias": False}, {"is_causal": False}, {"stride": 1}, {"rel_pos_bias": True}], ids=str
)
def test_newer_arguments(options):
    """NATTEN 0.17 and later: a bias only if asked for, even kernels, no padding."""
    attention = NeighborhoodAttention2D(8, num_heads=2, kernel_size=(4, 3), **options)
    assert (attention.rpb is not None) == options.get("rel_pos_bias", False)
    with pytest.raises(ShapeError, match="must fit the grid"):
        attention(torch.randn(1, 3, 7, 8))


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


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            ((8, 2, 3, 2), {}, TypeError, "dilation in NATTEN up to 0.17 and the stride since 0.20"),
            ((8, 2), {}, TypeError, "kernel_size are required, got 8, 2 and None"),
            ((8, 2, 3), {"embed_dim": 8}, TypeError, "names of one argument"),
            ((8, 2, 3), {"bias": True, "stride": 2}, UnsupportedError, "up to 0.15, stride of later ones"),
            ((8, 2, 4), {}, ShapeError, r"must be odd .* rel_pos_bias=False"),
            ((64, 7, 2), {}, ShapeError, "must be odd"),  # the order of 0.14.4: kernel_size before num_heads
            ((8, 3, 3), {}, ShapeError, "multiple of num_heads"),
            ((8, 2, 3), {"dilaton": 2}, TypeError, "dilaton"),
            ((8, 2, "3"), {}, TypeError, "whole number"),
        ],
    )
    def test_arguments(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            NeighborhoodAttention2D(*arguments, **options)

    def test_input(self):
        with pytest.raises(ShapeError, match="x must have 4 dimensions"):
            NeighborhoodAttention2D(4, 2, 3)(torch.zeros(2, 6, 4))
