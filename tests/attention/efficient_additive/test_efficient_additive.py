"""Properties of efficient additive attention, and parity with timm (second generation) and Hugging Face (first)."""

from importlib import import_module

import pytest
import torch
from timm.models.swiftformer import EfficientAdditiveAttention as TimmAttention

from budget import assert_definition
from drawing import draw
from regard.attention import EfficientAdditiveAttention, efficient_additive_attention, efficient_additive_weights
from regard.errors import OptionError, ShapeError

EPS = torch.finfo(torch.float64).eps
NORMS = ["l2", "ones", "softmax"]


def inputs(*grid, channels=6):
    return {
        "query": draw(2, *grid, channels),
        "key": draw(2, *grid, channels, seed=1),
        "weight": draw(channels, seed=2),
    }


@pytest.mark.parametrize("widths", [(24, 24, 1), (10, 8, 1), (6, 4, 3)], ids=str)
def test_timm(widths):
    upstream = TimmAttention(*widths).double()
    ours = EfficientAdditiveAttention(*widths).double()
    ours.load_state_dict(upstream.state_dict())
    x = draw(2, 5, 7, widths[0])
    exact = upstream(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach()
    assert_definition(ours, x, exact=exact)


def test_hugging_face():
    swiftformer = import_module("transformers.models.swiftformer.modeling_swiftformer")
    config = swiftformer.SwiftFormerConfig()
    upstream = swiftformer.SwiftFormerEfficientAdditiveAttention(config, dim=12).double()
    ours = EfficientAdditiveAttention(12, 12, token_norm="ones").double()
    ours.load_state_dict(upstream.state_dict())
    x = draw(2, 35, 12)
    exact = upstream(x).detach()
    assert_definition(ours, x, exact=exact)


def test_the_generations_differ():
    """The two generations give different outputs for the same parameters, so a mix-up is noticed."""
    module, x = EfficientAdditiveAttention(12, 12).double(), draw(2, 35, 12)
    outputs = []
    for module.token_norm in NORMS:
        outputs.append(module(x))
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 0.01 * one.abs().max()


def test_l2_weights_have_unit_norm():
    weights = efficient_additive_weights(draw(3, 4, 5, 6), draw(6))
    assert weights.shape == (3, 4, 5) and (weights < 0).any()
    assert (weights.square().sum((1, 2)) - 1).abs().max() <= 20 * EPS


def test_softmax_weights_sum_to_1():
    weights = efficient_additive_weights(draw(3, 4, 5, 6), draw(6), token_norm="softmax")
    assert (weights > 0).all() and (weights.sum((1, 2)) - 1).abs().max() <= 20 * EPS


def test_one_token():
    tensors = inputs(1)
    for token_norm in ("ones", "softmax"):
        assert (efficient_additive_weights(tensors["query"], tensors["weight"], token_norm=token_norm) == 1).all()
    weights = efficient_additive_weights(tensors["query"], tensors["weight"])
    assert torch.equal(weights, (tensors["query"] @ tensors["weight"]).sign())


@pytest.mark.parametrize("token_norm", ["l2", "ones"])
def test_scale_changes_nothing(token_norm):
    """A power of two is exact in every step; other scales change the result by rounding."""
    tensors = inputs(4, 5)
    plain = efficient_additive_attention(**tensors, token_norm=token_norm, scale=1.0)
    by_two = efficient_additive_attention(**tensors, token_norm=token_norm, scale=0.125)
    assert all(torch.equal(one, other) for one, other in zip(plain, by_two, strict=True))
    assert_definition(efficient_additive_attention, **tensors, token_norm=token_norm, scale=0.3, exact=plain)


def test_scale_0():
    tensors = inputs(4, 5)
    out, unit_query = efficient_additive_attention(**tensors, scale=0.0)
    assert (out == 0).all()
    assert (unit_query.norm(dim=-1) - 1).abs().max() <= 6 * EPS
    mean = efficient_additive_weights(tensors["query"], tensors["weight"], token_norm="softmax", scale=0.0)
    assert (mean - 1 / 20).abs().max() <= EPS


@pytest.mark.parametrize("token_norm", NORMS)
def test_permuted_tokens_permute_the_output(token_norm):
    tensors = inputs(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    permuted = {name: tensor[:, order] if tensor.ndim == 3 else tensor for name, tensor in tensors.items()}
    exact = tuple(out[:, order] for out in efficient_additive_attention(**tensors, token_norm=token_norm))
    assert_definition(efficient_additive_attention, **permuted, token_norm=token_norm, exact=exact)


def test_ones_pool_the_plain_sum():
    tensors = inputs(4, 5)
    unit_query, unit_key = (tensors[name] / tensors[name].norm(dim=-1, keepdim=True) for name in ("query", "key"))
    exact = (unit_query.sum((1, 2), keepdim=True) * unit_key, unit_query)
    assert_definition(efficient_additive_attention, **tensors, token_norm="ones", exact=exact)
    assert (efficient_additive_weights(tensors["query"], tensors["weight"], token_norm="ones") == 1).all()


def test_zero_tokens_stay_zero():
    """Padding does not become NaN, even in float16, where the authors' clamp of 1e-12 is zero."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        zeros = torch.zeros(1, 4, 6, dtype=dtype)
        for out in efficient_additive_attention(zeros, zeros, torch.ones(6, dtype=dtype)):
            assert (out == 0).all()


@pytest.mark.parametrize("token_norm", NORMS)
def test_every_parameter_has_a_gradient(token_norm):
    module = EfficientAdditiveAttention(8, 6, token_norm=token_norm).double()
    module(draw(2, 3, 4, 8)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        unused = token_norm == "ones" and name == "w_g"
        assert (parameter.grad.abs().max() == 0) if unused else (parameter.grad.abs().max() > 0), name


def test_autocast():
    module = EfficientAdditiveAttention(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(1, 5, 8)).dtype == torch.bfloat16


def test_unknown_token_norm():
    with pytest.raises(OptionError, match="unknown token_norm 'L2'; did you mean 'l2'"):
        efficient_additive_attention(**inputs(4), token_norm="L2")
    with pytest.raises(OptionError, match="did you mean 'softmax'"):
        EfficientAdditiveAttention(8, 8, token_norm="soft_max")


def test_wrong_sizes():
    with pytest.raises(ShapeError, match=r"weight is \[C\]: expected \[6\], got \[6, 1\]"):
        efficient_additive_attention(**{**inputs(4), "weight": draw(6, 1)})
    with pytest.raises(ShapeError, match="num_heads must be at least 1, got 0"):
        EfficientAdditiveAttention(8, 8, 0)
    with pytest.raises(ShapeError, match=r"x must have 3 or 4 or 5 dimensions .* got 2 \[1, 8\]"):
        EfficientAdditiveAttention(8, 8)(torch.randn(1, 8))
