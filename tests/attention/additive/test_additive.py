"""Properties of additive attention, and parity with Fastformer's official computation in NumPy."""

import numpy as np
import pytest
import torch

from budget import assert_definition
from drawing import draw, randomize
from regard.attention import AdditiveAttention, additive_attention, additive_weights
from regard.errors import ShapeError

EPS = torch.finfo(torch.float64).eps


def inputs(*grid, heads=2, head_dim=4):
    tensors = {name: draw(2, *grid, heads, head_dim, seed=i) for i, name in enumerate(("query", "key"))}
    weights = {name: draw(heads, heads * head_dim, seed=i) for i, name in enumerate(("query_weight", "key_weight"))}
    return {**tensors, **weights}


def fastformer(x, state, heads):
    """Compute `FastSelfAttention` of Fastformer's notebook, on `[B, N, D]` without a mask, in NumPy."""
    state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def dense(name, tokens):
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def softmax_over_tokens(scores):
        exponentials = np.exp(scores - scores.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    batch, count, channels = x.shape
    width = channels // heads

    def pool_heads(weights, tokens):  # [B, N, nh] and [B, N, D] to [B, 1, D]
        return np.einsum("bnh,bnhd->bhd", weights, tokens.reshape(batch, count, heads, width)).reshape(batch, 1, -1)

    query, key = dense("query", x.numpy()), dense("key", x.numpy())
    global_query = pool_heads(softmax_over_tokens(dense("query_att", query) / width**0.5), query)
    products = key * global_query
    global_key = pool_heads(softmax_over_tokens(dense("key_att", products) / width**0.5), products)
    return torch.from_numpy(dense("transform", query * global_key) + query)


@pytest.mark.parametrize("grid", [(13,), (4, 6), (2, 3, 4)], ids=str)
def test_fastformer(grid):
    module, x = randomize(AdditiveAttention(12, num_heads=3)), draw(2, *grid, 12, seed=9)
    exact = fastformer(x.flatten(1, -2), module.state_dict(), heads=3).unflatten(1, grid)
    assert_definition(module, x, exact=exact)


def test_weights_sum_to_1_and_pool():
    """The output follows from the two sets of weights by sums and products."""
    tensors = inputs(4, 6)
    alpha, beta = additive_weights(**tensors)
    assert alpha.shape == beta.shape == (2, 4, 6, 2)
    for weights in (alpha, beta):
        assert (weights >= 0).all()
        assert (weights.sum((1, 2)) - 1).abs().max() <= 24 * EPS
    query, key = tensors["query"], tensors["key"]
    global_query = torch.einsum("bxyh,bxyhd->bhd", alpha, query)
    global_key = torch.einsum("bxyh,bxyhd->bhd", beta, key) * global_query
    exact = query * global_key[:, None, None]
    assert_definition(additive_attention, **tensors, exact=exact)


def test_permuted_tokens_permute_the_output():
    tensors = inputs(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    permuted = {name: tensor[:, order] if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}
    assert_definition(additive_attention, **permuted, exact=additive_attention(**tensors)[:, order])


def test_one_token_is_a_product():
    tensors = inputs(1)
    assert torch.equal(additive_attention(**tensors), tensors["query"] * (tensors["key"] * tensors["query"]))


def test_scale_0_pools_the_mean():
    tensors = inputs(5, 3)
    global_query = tensors["query"].mean((1, 2), keepdim=True)
    exact = tensors["query"] * (tensors["key"] * global_query).mean((1, 2), keepdim=True)
    assert_definition(additive_attention, **tensors, scale=0.0, exact=exact)


def test_the_softmax_cancels_the_biases():
    """Adding a bias to all logits changes the weights only by rounding, and its gradient is only rounding."""
    tensors = inputs(4, 5)
    biases = {"query_bias": draw(2, seed=5).requires_grad_(), "key_bias": draw(2, seed=6).requires_grad_()}
    assert_definition(additive_weights, **tensors, **biases, exact=additive_weights(**tensors))
    query = tensors["query"].requires_grad_()
    gradients = torch.autograd.grad(additive_attention(**tensors, **biases).sum(), [query, *biases.values()])
    summands = 2 * 4 * 5  # batch and tokens
    for gradient in gradients[1:]:
        assert gradient.abs().max() <= summands * EPS * gradients[0].abs().max()


def test_every_parameter_has_a_gradient():
    module = randomize(AdditiveAttention(8, num_heads=2)).double()
    module(draw(2, 3, 4, 8)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("_att.bias"), name  # the softmax cancels these two


def test_module_options():
    module = AdditiveAttention(8, num_heads=2, qkv_bias=False, proj_drop=0.5)
    assert module.query.bias is None and module.key.bias is None
    x = torch.randn(1, 50, 8)
    dropped = (module(x) == 0).double().mean().item()
    assert 0.25 < dropped < 0.75
    assert torch.equal(module.eval()(x), module(x))
    with pytest.raises(ShapeError, match="multiple of num_heads"):
        AdditiveAttention(10, num_heads=4)
    with pytest.raises(ShapeError, match=r"x must have 3 or 4 or 5 dimensions .* got 2 \[1, 8\]"):
        module(torch.randn(1, 8))


def test_autocast():
    module = AdditiveAttention(8, num_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(1, 5, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["query_weight", "key_weight", "query_bias", "key_bias"])
def test_wrong_projection(name):
    with pytest.raises(ShapeError, match=f"{name} is \\[nh.*got \\[3, 3\\]"):
        additive_attention(**{**inputs(4), name: draw(3, 3)})
