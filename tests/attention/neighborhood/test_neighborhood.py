"""Properties of neighborhood attention, parity with NATTEN's operators, and errors of its arguments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from budget import assert_definition
from drawing import draw
from memory import LargestTensor
from natten_golden import OPERATORS, assert_natten_values
from regard.attention import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_weights,
)
from regard.errors import OptionError, ShapeError

from .brute_force import brute_force
from .strategies import neighborhood_axes


@pytest.mark.parametrize("record", OPERATORS, ids=[record["name"] for record in OPERATORS])
def test_natten_operators(record):
    assert_natten_values(neighborhood_attention, record)


@pytest.mark.parametrize("grid", [(7,), (4, 6), (2, 3, 4)], ids=str)
def test_window_of_the_grids_size_is_full_attention(grid):
    query, key, value = draw(3, 2, *grid, 2, 8)
    bias = draw(2, *(2 * n - 1 for n in grid), seed=1)
    index = neighborhood_bias_index(grid, grid).flatten(0, -2)  # [N, N]
    flat = [tensor.flatten(1, -3).transpose(1, 2) for tensor in (query, key, value)]  # [B, nh, N, hd]
    full = scaled_dot_product_attention(*flat, attn_mask=bias.flatten(1)[:, index])
    exact = full.transpose(1, 2).unflatten(1, grid)
    assert_definition(neighborhood_attention, query, key, value, grid, bias=bias, exact=exact)


def test_flip_in_flip_out():
    """Odd windows are symmetric, so flipping the grid and the bias table flips the output."""
    query, key, value = draw(3, 1, 7, 9, 2, 4)
    bias = draw(2, 5, 9, seed=1)
    mirrored = [tensor.flip(1, 2) for tensor in (query, key, value)]
    exact = neighborhood_attention(*mirrored, (3, 5), bias=bias.flip(1, 2)).flip(1, 2)
    assert_definition(neighborhood_attention, query, key, value, (3, 5), bias=bias, exact=exact)


def test_dilation_is_attention_on_every_sub_grid():
    query, key, value = draw(3, 1, 9, 8, 2, 4)
    out = neighborhood_attention(query, key, value, 3, dilation=(2, 1))
    for remainder in range(2):
        part = [tensor[:, remainder::2] for tensor in (query, key, value)]
        assert torch.equal(neighborhood_attention(*part, 3), out[:, remainder::2])


def test_causal_sees_nothing_later():
    query, key, value = draw(3, 1, 12, 1, 4)
    later = [tensor.clone() for tensor in (key, value)]
    for tensor in later:
        tensor[:, 7:] = torch.randn_like(tensor[:, 7:])
    before = neighborhood_attention(query, key, value, 4, is_causal=True, stride=2)
    after = neighborhood_attention(query, *later, 4, is_causal=True, stride=2)
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.equal(before[:, 7:], after[:, 7:])


def test_scale():
    query, key, value = draw(3, 1, 5, 5, 1, 4)
    default = neighborhood_attention(query, key, value, 3)
    assert torch.equal(default, neighborhood_attention(query, key, value, 3, scale=0.5))
    uniform = neighborhood_weights(query, key, 3, scale=0.0)
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / 9), rtol=1e-15, atol=0)


def test_weights_reproduce_the_output():
    query, key, value = draw(3, 1, 6, 2, 4)
    weights = neighborhood_weights(query, key, 3, is_causal=True)
    out = neighborhood_attention(query, key, value, 3, is_causal=True)
    assert torch.equal(weights[0, 0, 0], torch.tensor([1.0, 0, 0], dtype=torch.float64))  # sees only itself
    expected = torch.einsum("hk,khd->hd", weights[0, 5], value[0, 3:6])
    torch.testing.assert_close(out[0, 5], expected, rtol=1e-14, atol=1e-15)


def test_bias_index_at_the_borders():
    """Offsets are key minus query: the first rows look down (large), the last ones up (small)."""
    index = neighborhood_bias_index(3, (5,))
    assert index.tolist() == [[2, 3, 4], [1, 2, 3], [1, 2, 3], [1, 2, 3], [0, 1, 2]]
    assert neighborhood_bias_index((3, 1), (5, 2))[:, 0].tolist() == index.tolist()
    assert neighborhood_bias_index(3, (6,), dilation=2)[0].tolist() == [2, 3, 4]


def test_dropout_drops_weights():
    torch.manual_seed(0)
    query, key, _ = draw(3, 1, 8, 8, 1, 4)
    ones = torch.ones_like(query)
    out = neighborhood_attention(query, key, ones, 3, dropout_p=0.5)
    assert out.min() < 1 < out.max()


def test_memory_grows_with_the_window():
    """No tensor of the forward or backward pass exceeds the gathered keys."""
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 1, 40, 40, 1, 4, dtype=torch.float32))
    with LargestTensor() as largest:
        neighborhood_attention(query, key, value, 3, backend="reference").sum().backward()
    assert largest.elements == 40 * 40 * 9 * 4 < (40 * 40) ** 2


@settings(max_examples=60)
@given(data=st.data())
def test_any_options(data):
    axes = data.draw(st.integers(1, 2))
    grid, kernel, dilation, stride, causal = data.draw(neighborhood_axes(axes, longest=9, kernel=4, stride=4))
    query, key, value = draw(3, 1, *grid, 1, 2, seed=data.draw(st.integers(0, 100)))
    bias = draw(1, *(2 * k - 1 for k in kernel))
    tensors = {"query": query, "key": key, "value": value, "bias": bias}
    options = {"kernel_size": kernel, "dilation": dilation, "stride": stride, "is_causal": causal}
    assert_definition(neighborhood_attention, **tensors, **options, exact=brute_force(**tensors, **options))


@pytest.mark.parametrize(
    ("module", "grid"),
    [(NeighborhoodAttention1d, (9,)), (NeighborhoodAttention2d, (6, 5)), (NeighborhoodAttention3d, (4, 3, 5))],
)
def test_modules(module, grid):
    attention = module(12, num_heads=3, kernel_size=3)
    x = torch.randn(2, *grid, 12, requires_grad=True)
    out = attention(x)
    assert out.shape == x.shape
    gradients = torch.autograd.grad(out.square().sum(), [x, *attention.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert set(attention.state_dict()) == {"qkv.weight", "qkv.bias", "rpb", "proj.weight", "proj.bias"}


def test_module_pads_before_its_projection():
    """A padded position acts as a key that equals the projection's bias, and shifts windows, as NATTEN 0.14's does."""
    attention = NeighborhoodAttention2d(8, num_heads=2, kernel_size=5, small_grid="pad")
    x = torch.randn(1, 3, 7, 8)
    padded = torch.zeros(1, 5, 7, 8)
    padded[:, :3] = x
    assert torch.equal(attention(x), attention(padded)[:, :3])
    with pytest.raises(ShapeError, match="small_grid='pad'"):
        NeighborhoodAttention2d(8, num_heads=2, kernel_size=5)(x)


def test_module_in_mixed_precision():
    attention = NeighborhoodAttention2d(8, num_heads=2, kernel_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(torch.randn(1, 5, 5, 8))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert attention.rpb.grad.dtype == torch.float32


class TestBadInput:
    q = torch.zeros(1, 6, 6, 2, 4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"kernel_size": 7}, r"must fit the grid \(6, 6\), got kernel_size=7 .* small_grid='pad'"),
            ({"kernel_size": 3, "dilation": (1, 3)}, "must fit the grid"),
            ({"kernel_size": 0}, "kernel_size must be at least 1"),
            ({"kernel_size": -3}, "kernel_size must be at least 1"),
            ({"kernel_size": (3, 3, 3)}, r"one per grid axis \(2\)"),
            ({"kernel_size": 3, "dilation": 0}, "dilation must be at least 1"),
            ({"kernel_size": 3, "stride": 4}, "stride must be at most kernel_size"),
            ({"kernel_size": 3, "bias": torch.zeros(2, 3, 3)}, r"expected \[2, 5, 5\], got \[2, 3, 3\]"),
            ({"kernel_size": 3, "dropout_p": 1.5}, r"dropout_p must be in \[0, 1\)"),
            ({"kernel_size": 3, "key": torch.zeros(1, 6, 5, 2, 4)}, "key must equal query's shape"),
            ({"kernel_size": 3, "value": torch.zeros(1, 6, 6, 1, 4)}, "value must equal query's shape but"),
        ],
    )
    def test_sizes(self, options, message):
        with pytest.raises(ShapeError, match=message):
            neighborhood_attention(**{"query": self.q, "key": self.q, "value": self.q, **options})

    def test_words(self):
        with pytest.raises(OptionError, match="did you mean 'pad'"):
            neighborhood_attention(self.q, self.q, self.q, 3, small_grid="pads")
        with pytest.raises(TypeError, match="whole number"):
            neighborhood_attention(self.q, self.q, self.q, (3, 2.5))

    def test_modules(self):
        with pytest.raises(ShapeError, match="multiple of num_heads"):
            NeighborhoodAttention2d(10, num_heads=3, kernel_size=3)
        with pytest.raises(ShapeError, match="x must have 4 dimensions"):
            NeighborhoodAttention2d(4, num_heads=2, kernel_size=3)(torch.zeros(2, 6, 4))
