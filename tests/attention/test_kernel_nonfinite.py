"""The kernels return NaN exactly where the references do."""

from functools import partial

import pytest
import torch

from budget import leaves
from drawing import draw, draw_single
from regard.attention import (
    additive_attention,
    efficient_additive_attention,
    talking_heads_attention,
    window_attention,
)

from .kernels import local, needs_native


@needs_native
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@local
def test_nan_is_not_hidden(attention, dtype):
    """A NaN in a key or in the bias makes every query that sees it NaN."""
    query, key, value = draw(3, 1, 9, 9, 2, 4, dtype=dtype)
    key[0, 4, 4, 1] = torch.nan
    bias = torch.zeros(2, 5, 5, dtype=dtype)
    for table in (bias, torch.where(torch.arange(50).reshape(2, 5, 5) == 30, torch.nan, bias)):
        got, expected = (
            attention(query, key, value, bias=table, backend=backend).isnan() for backend in ("fused", "reference")
        )
        assert expected.any() and torch.equal(got, expected)


def nan_places(function, *tensors, **options):
    """Return where outputs and gradients are NaN, of the kernel and of the reference."""
    found = []
    for backend in ("fused", "reference"):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        outputs = leaves(function(*inputs, **options, backend=backend))
        gradients = torch.autograd.grad([out.sum() for out in outputs], inputs)
        found.append([tensor.isnan() for tensor in (*outputs, *gradients)])
    return found


@needs_native
@pytest.mark.parametrize("which", [0, 1], ids=["query", "key"])
def test_regions_of_a_shifted_window_do_not_mix(which):
    tensors = draw_single(3, 1, 7, 7, 1, 4)
    tensors[which][0, 1, 1] = torch.nan  # the window's last token, after a shift by 2
    got, expected = nan_places(window_attention, *tensors, window_size=7, shift_size=2)
    assert any(0 < one.sum() < one.numel() for one in expected)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@needs_native
@pytest.mark.parametrize("token", [0, 3, 32, 39])
def test_hidden_tokens_of_additive_attention(token):
    query, key = draw_single(2, 1, 40, 2, 4)
    query, weights = query.abs(), [torch.ones(2, 8)] * 2
    key[0, token, 0, 1] = -torch.inf
    results = [additive_attention(query, key, *weights, backend=backend) for backend in ("fused", "reference")]
    assert 0 < results[1].isnan().sum() < results[1].numel()
    torch.testing.assert_close(*results, equal_nan=True)


@needs_native
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_canceled_biases_that_are_not_finite(value):
    query, key, values = draw_single(3, 1, 9, 2, 4)
    bad, mixes = torch.tensor([0.0, value]), torch.eye(2)
    weights = torch.ones(2, 8)
    calls = [
        partial(talking_heads_attention, query, key, values, mixes, mixes, logits_bias=bad),
        partial(additive_attention, query, key, weights, weights, query_bias=bad),
        partial(additive_attention, query, key, weights, weights, key_bias=bad),
        partial(efficient_additive_attention, query.flatten(2), key.flatten(2), bad.repeat(4), token_norm="ones"),
    ]
    for call in calls:
        got, expected = (leaves(call(backend=backend))[0].isnan() for backend in ("fused", "reference"))
        assert expected.any() and torch.equal(got, expected)
