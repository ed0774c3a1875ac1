"""Properties of window attention, parity with timm's module, and errors of its arguments."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import swin_transformer as timm
from torch.nn.functional import scaled_dot_product_attention

from budget import assert_definition
from drawing import draw, randomize
from regard.attention import (
    WindowAttention,
    neighborhood_attention,
    window_attention,
    window_bias_index,
    window_weights,
)
from regard.errors import OptionError, ShapeError, UnsupportedError

from .brute_force import brute_force


def draw_with_bias(grid, window):
    bias = draw(2, *(2 * size - 1 for size in window), seed=1)
    return dict(zip(("query", "key", "value", "bias"), (*draw(3, 2, *grid, 2, 8), bias), strict=True))


def timm_on_a_grid(block, attention, x):
    """Compute timm's attention in shifted windows; the grid is a multiple of the window."""
    height, width = x.shape[1:3]
    size, shift = attention.window_size, block.shift_size
    windows = timm.window_partition(x.roll((-shift[0], -shift[1]), (1, 2)), size).flatten(1, 2)
    out = attention(windows, mask=block.get_attn_mask(device=x.device, dtype=x.dtype))
    out = timm.window_reverse(out.unflatten(1, size), size, height, width)
    return out.roll(shift, (1, 2))


@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (2, 0)], ids=str)
@pytest.mark.parametrize(("grid", "window"), [((6, 8), (3, 4)), ((3, 8), (3, 4)), ((9, 12), (3, 4))], ids=str)
def test_timm(grid, window, shift):
    block = timm.SwinTransformerBlock(
        32, grid, num_heads=4, window_size=window, shift_size=shift, always_partition=True
    )
    upstream, ours = randomize(block.attn), WindowAttention(32, 4, window, shift_size=shift)
    assert ours.state_dict().keys() == upstream.state_dict().keys()
    ours.load_state_dict(upstream.state_dict())
    x = torch.randn(2, *grid, 32)
    assert_definition(ours, x, exact=timm_on_a_grid(block, upstream.double(), x.double()))


def test_timm_without_qkv_bias_at_its_default_window():
    upstream = randomize(timm.WindowAttention(32, 4, qkv_bias=False))
    ours, x = WindowAttention(32, 4, qkv_bias=False), torch.randn(2, 7, 7, 32)
    ours.load_state_dict(upstream.state_dict())
    exact = upstream.double()(x.double().flatten(1, 2)).unflatten(1, (7, 7))
    assert_definition(ours, x, exact=exact)


@pytest.mark.parametrize("window", [(7, 7), (2, 5), (1, 3), (4, 1)], ids=str)
def test_index_is_the_transpose_of_swins(window):
    assert torch.equal(window_bias_index(window), timm.get_relative_position_index(*window).T)


@pytest.mark.parametrize("window", [(5,), (2, 3), (2, 3, 2)], ids=str)
def test_index_is_key_minus_query(window):
    table = torch.stack(
        torch.meshgrid(*(torch.arange(1 - size, size) for size in window), indexing="ij"), -1
    )  # every entry holds its own offset
    offsets = table.flatten(0, -2)[window_bias_index(window)]
    places = torch.tensor(list(itertools.product(*map(range, window))))
    assert torch.equal(offsets, places[None] - places[:, None])


@pytest.mark.parametrize("grid", [(7,), (4, 6), (2, 3, 4)], ids=str)
def test_window_of_the_grids_size_is_full_attention(grid):
    tensors = draw_with_bias(grid, grid)
    flat = [tensors[name].flatten(1, -3).transpose(1, 2) for name in ("query", "key", "value")]  # [B, nh, N, hd]
    bias = tensors["bias"].flatten(1)[:, window_bias_index(grid)]
    full = scaled_dot_product_attention(*flat, attn_mask=bias).transpose(1, 2).unflatten(1, grid)
    assert_definition(window_attention, **tensors, window_size=grid, exact=full)


@pytest.mark.parametrize(("grid", "window"), [((12,), (4,)), ((6, 8), (3, 4)), ((4, 3, 4), (2, 3, 2))], ids=str)
def test_unshifted_windows_are_neighborhoods_of_stride_kernel(grid, window):
    tensors = draw_with_bias(grid, window)
    exact = neighborhood_attention(**tensors, kernel_size=window, stride=window)
    assert_definition(window_attention, **tensors, window_size=window, exact=exact)


@pytest.mark.parametrize(("grid", "window"), [((12,), (4,)), ((6, 8), (3, 4))], ids=str)
def test_flip_in_flip_out(grid, window):
    tensors = draw_with_bias(grid, window)
    axes = list(range(1, len(grid) + 1))
    flipped = {name: tensor.flip(axes) for name, tensor in tensors.items()}
    exact = window_attention(**flipped, window_size=window).flip(axes)
    assert_definition(window_attention, **tensors, window_size=window, exact=exact)


def test_shift_moves_the_windows():
    """Away from the borders, shifted windows are the unshifted windows of the inner grid."""
    tensors = draw_with_bias((10, 11), (4, 3))
    inner = {name: tensor[:, 1:9, 2:11] if name != "bias" else tensor for name, tensor in tensors.items()}
    exact = window_attention(**inner, window_size=(4, 3))

    def shifted(**tensors):
        return window_attention(**tensors, window_size=(4, 3), shift_size=(1, 2))[:, 1:9, 2:11]

    assert_definition(shifted, **tensors, exact=exact)


def test_appended_zeros_are_keys():
    """Position 6 shares its window with two appended zeros, and all logits are 0, so each key weighs 1 / 3."""
    query = key = torch.zeros(1, 7, 1, 4)
    value = torch.ones(1, 7, 1, 1)
    out = window_attention(query, key, value, 3)
    assert torch.equal(out[0, :6, 0, 0], torch.ones(6))
    assert abs(out[0, 6, 0, 0] - 1 / 3) <= torch.finfo(torch.float32).eps
    shifted = window_attention(query, key, value, 3, shift_size=2)  # tiles [0, 1], [2, 3, 4], [5, 6, zero], [zero]
    assert abs(shifted[0, 6, 0, 0] - 2 / 3) <= torch.finfo(torch.float32).eps
    assert torch.equal(shifted[0, :5, 0, 0], torch.ones(5))


def test_scale_0_is_the_mean_of_the_window():
    query, key, value = draw(3, 2, 4, 6, 2, 8)
    mean = value.unflatten(1, (2, 2)).unflatten(3, (2, 3)).mean((2, 4), keepdim=True)
    exact = mean.expand(-1, -1, 2, -1, 3, -1, -1).flatten(1, 2).flatten(2, 3)
    assert_definition(window_attention, query, key, value, (2, 3), scale=0.0, exact=exact)


def test_weights():
    query, key, value = draw(3, 2, 5, 6, 2, 8)
    weights = window_weights(query, key, 3, shift_size=(0, 1))
    assert weights.shape == (2, 2, 2, 2, 9, 9)
    assert (weights.sum(-1) - 1).abs().max() <= 9 * torch.finfo(torch.float64).eps
    carried = weights[:, :, -1, :, :, 2::3]  # column 5 of the rolled grid came from the other side
    others = torch.tensor([place for place in range(9) if place % 3 != 2])
    assert not carried[..., others, :].any() and (carried[..., 2::3, :] > 0).all()
    first = torch.einsum("bhts,bshc->bthc", weights[:, 0, 0], value[:, :3, 1:4].flatten(1, 2))

    def first_window(*tensors):
        return window_attention(*tensors, 3, shift_size=(0, 1))[:, :3, 1:4].flatten(1, 2)

    assert_definition(first_window, query, key, value, exact=first)


@settings(max_examples=60)
@given(data=st.data())
def test_any_options(data):
    axes = data.draw(st.integers(1, 2))
    one = st.tuples(st.integers(1, 9), st.integers(1, 5)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[1] - 1))
    )
    grid, window, shift = zip(*(data.draw(one) for _ in range(axes)), strict=True)
    tensors = draw_with_bias(grid, window)
    options = {"window_size": window, "shift_size": shift, "small_grid": "pad"}
    assert_definition(window_attention, **tensors, **options, exact=brute_force(**tensors, **options))


@pytest.mark.parametrize(("window", "grid"), [((3,), (9,)), (3, (6, 7)), ((2, 2, 3), (4, 4, 6))], ids=str)
def test_modules(window, grid):
    module = WindowAttention(12, 3, window, shift_size=1)
    x = torch.randn(2, *grid, 12, requires_grad=True)
    out = module(x)
    assert out.shape == x.shape
    gradients = torch.autograd.grad(out.square().sum(), [x, *module.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert module(x[:0]).shape == (0, *grid, 12)


def test_module_pads_before_its_projection():
    """A padded position acts as a key that equals the projection's bias."""
    module = randomize(WindowAttention(8, 2, 4, shift_size=1, small_grid="pad"))
    x = torch.randn(1, 3, 6, 8)
    padded = torch.zeros(1, 4, 8, 8)
    padded[:, :3, :6] = x
    assert torch.equal(module(x), module(padded)[:, :3, :6])


def test_module_in_mixed_precision():
    module = WindowAttention(8, 2, 3, shift_size=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.randn(1, 6, 6, 8))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert module.relative_position_bias_table.grad.dtype == torch.float32


class TestBadInput:
    def call(self, window_size=3, **changed):
        query, key, value = draw(3, 1, 6, 9, 2, 4)
        return window_attention(**{"query": query, "key": key, "value": value, **changed}, window_size=window_size)

    def test_window(self):
        with pytest.raises(ShapeError, match="window_size must be at least 1"):
            self.call((3, 0))
        with pytest.raises(ShapeError, match=r"one per grid axis \(2\)"):
            self.call((3, 3, 3))
        with pytest.raises(TypeError, match="window_size must be a whole number"):
            self.call((3, 3.0))
        with pytest.raises(ShapeError, match=r"must fit the grid \(6, 9\), got \(7, 7\).*small_grid='pad'"):
            self.call(7)

    def test_shift(self):
        with pytest.raises(ShapeError, match="shift_size must be less than window_size"):
            self.call(shift_size=(0, 3))
        with pytest.raises(ShapeError, match="shift_size must be at least 0"):
            self.call(shift_size=-1)

    def test_bias(self):
        with pytest.raises(ShapeError, match=r"bias is \[nh, 2 \* window_size - 1 per axis\]: expected \[2, 5, 7\]"):
            self.call((3, 4), bias=torch.zeros(2, 7, 5, dtype=torch.float64))

    def test_small_grid(self):
        with pytest.raises(OptionError, match="small_grid"):
            self.call(small_grid="crop")

    def test_no_kernel_with_dropout(self):
        with pytest.raises(UnsupportedError, match="no dropout of attention weights"):
            self.call(dropout_p=0.1, backend="fused")

    def test_module(self):
        with pytest.raises(ShapeError, match="one length for each of its 1, 2 or 3 axes"):
            WindowAttention(8, 2, (2, 2, 2, 2))
        with pytest.raises(ShapeError, match="shift_size must be less than window_size"):
            WindowAttention(8, 2, 3, shift_size=3)
        with pytest.raises(ShapeError, match="x must have 4 dimensions"):
            WindowAttention(8, 2, 3)(torch.randn(1, 9, 8))
        with pytest.raises(ShapeError, match=r"must fit the grid \(2, 9\)"):
            WindowAttention(8, 2, 3)(torch.randn(1, 2, 9, 8))
