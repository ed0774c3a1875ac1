"""Position embeddings: timm's values, and what they promise on their own."""

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed

from regard.errors import OptionError, ShapeError, UnsupportedError
from regard.layers import PositionEmbedding, interpolate_position, sincos_position


@pytest.mark.parametrize(("old", "new"), [((7, 7), (14, 14)), ((14, 14), (5, 9)), ((3, 8), (8, 3)), ((1, 6), (4, 6))])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_timm_interpolation(old, new, prefix):
    embedding = torch.randn(1, prefix + old[0] * old[1], 12)
    timm = resample_abs_pos_embed(embedding, list(new), list(old), num_prefix_tokens=prefix)
    assert torch.equal(interpolate_position(embedding, old, new, num_prefix_tokens=prefix), timm)


def test_without_batch():
    embedding = torch.randn(1 + 9, 4)
    batched = interpolate_position(embedding[None], (3, 3), (4, 5), num_prefix_tokens=1)
    assert torch.equal(interpolate_position(embedding, (3, 3), (4, 5), num_prefix_tokens=1), batched[0])


def test_one_axis_is_one_row():
    embedding = torch.randn(7, 4)
    assert torch.equal(interpolate_position(embedding, (7,), (11,)), interpolate_position(embedding, (1, 7), (1, 11)))


def test_same_grid_is_untouched():
    embedding = torch.randn(1, 24, 4)
    assert interpolate_position(embedding, (2, 3, 4), (2, 3, 4)) is embedding


def test_constant_stays_constant():
    """The weights of every new position sum to 1, up to the rounding of sixteen products."""
    double = torch.full((1, 30, 2), 0.7, dtype=torch.float64)
    got = interpolate_position(double, (5, 6), (9, 4))
    assert (got - 0.7).abs().max() <= 16 * torch.finfo(torch.float64).eps


def test_half_precision_is_the_rounded_interpolation():
    embedding = torch.randn(1, 36, 4).bfloat16()
    got = interpolate_position(embedding, (6, 6), (4, 9))
    assert torch.equal(got, interpolate_position(embedding.float(), (6, 6), (4, 9)).bfloat16())


@pytest.mark.parametrize(("grid", "dim"), [((4, 6), 16), ((14, 14), 64), ((1, 3), 4)])
def test_timm_sincos(grid, dim):
    assert torch.equal(sincos_position(grid, dim).flatten(0, 1), build_sincos2d_pos_embed(list(grid), dim))


@pytest.mark.parametrize(("grid", "dim"), [((5,), 8), ((3, 4), 8), ((2, 3, 4), 12)])
def test_sincos_channels(grid, dim):
    """Every pair of channels lies on the unit circle, and a channel depends on one axis alone."""
    embedding = sincos_position(grid, dim, temperature=100.0)
    assert embedding.shape == (*grid, dim)
    sines, cosines = embedding.chunk(2, dim=-1)
    assert (sines**2 + cosines**2 - 1).abs().max() <= 4 * torch.finfo(torch.float32).eps
    for axis, channels in enumerate(sines.chunk(len(grid), dim=-1)):
        line = channels.movedim(axis, 0).reshape(grid[axis], -1, channels.shape[-1])
        assert torch.equal(line, line[:, :1].expand_as(line))
        assert torch.equal(line[:, 0, 0], torch.arange(grid[axis]).float().sin())  # the fastest: 1 per position


def test_temperature_is_used():
    assert not torch.equal(sincos_position((9,), 8), sincos_position((9,), 8, temperature=10.0))


@pytest.mark.parametrize("grid", [(4, 6), (5, 5)])
@pytest.mark.parametrize("kind", ["learned", "sincos"])
def test_module(kind, grid):
    torch.manual_seed(0)
    module, x = PositionEmbedding(8, (4, 6), kind=kind), torch.randn(2, *grid, 8)
    table = module.embedding if kind == "learned" else sincos_position((4, 6), 8).reshape(1, 24, 8)
    assert torch.equal(module(x), x + interpolate_position(table, (4, 6), grid).reshape(*grid, 8))


def test_module_double():
    torch.manual_seed(0)
    module, x = PositionEmbedding(8, (3, 4)), torch.randn(2, 5, 7, 8)
    table, x = module.embedding.detach().double(), x.double()
    assert torch.equal(module.double()(x), x + interpolate_position(table, (3, 4), (5, 7)).reshape(5, 7, 8))


def test_module_three_axes():
    module = PositionEmbedding(6, (2, 3, 4), kind="sincos")
    assert torch.equal(module(torch.zeros(1, 2, 3, 4, 6))[0], sincos_position((2, 3, 4), 6))


def test_gradient():
    module = PositionEmbedding(4, (3, 3))
    module(torch.zeros(2, 6, 6, 4)).sum().backward()
    assert module.embedding.grad.abs().min() > 0


def test_bad_input():
    with pytest.raises(ShapeError, match=r"embedding must be \[10, C\] or \[1, 10, C\].*got \[1, 9, 4\]"):
        interpolate_position(torch.randn(1, 9, 4), (3, 3), (4, 4), num_prefix_tokens=1)
    with pytest.raises(ShapeError, match=r"got \[2, 9, 4\]"):
        interpolate_position(torch.randn(2, 9, 4), (3, 3), (4, 4))
    with pytest.raises(ShapeError, match="equal axes of at least 1"):
        interpolate_position(torch.randn(9, 4), (3, 3), (4,))
    with pytest.raises(ShapeError, match="equal axes of at least 1"):
        interpolate_position(torch.randn(9, 4), (3, 3), (4, 0))
    with pytest.raises(UnsupportedError, match="one or two axes"):
        interpolate_position(torch.randn(8, 4), (2, 2, 2), (3, 3, 3))
    with pytest.raises(ShapeError, match=r"multiple of 2 \* axes = 4, got 6"):
        sincos_position((3, 3), 6)
    with pytest.raises(ShapeError, match="grid must have 1, 2 or 3 axes"):
        sincos_position((3, 0), 4)
    with pytest.raises(OptionError, match="did you mean 'sincos'"):
        PositionEmbedding(4, (3, 3), kind="sincosine")
    with pytest.raises(ShapeError, match=r"x must be \[B, 2 grid axes, 4\]"):
        PositionEmbedding(4, (3, 3))(torch.randn(1, 9, 4))
