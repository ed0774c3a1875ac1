"""Additive attention (Fastformer) in eager PyTorch: the definition that the kernels are held to.

The family's four steps, twice: the queries are pooled to a global query, which meets every key; these products are
pooled to a global key, which meets every query.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import linear

from regard.attention._pooling import normalize_scores, pool


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator."""

    query: Tensor
    key: Tensor
    query_weight: Tensor
    key_weight: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    scale: float


def additive_attention(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Multiply every query with the global key, `[B, *grid, nh, hd]`."""
    query, key = query.contiguous(), key.contiguous()  # a view gives the bits of its copy
    _, products, beta = both_weights(query, key, query_weight, key_weight, query_bias, key_bias, scale)
    return query * pool(beta, products, token_axes(query))  # [B, *grid, nh, hd]


def additive_weights(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the weights of both poolings."""
    alpha, _, beta = both_weights(query, key, query_weight, key_weight, query_bias, key_bias, scale)
    return alpha, beta


def both_weights(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weigh the queries, multiply every key with the global query, and weigh these products."""
    alpha = token_weights(query, query_weight, query_bias, scale)
    products = key * pool(alpha, query, token_axes(query))  # [B, *grid, nh, hd]
    return alpha, products, token_weights(products, key_weight, key_bias, scale)


def token_weights(tokens: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Score every token for every head from the channels of all heads, and take the softmax over the tokens."""
    scores = linear(tokens.flatten(-2), weight.contiguous(), bias) * scale  # [B, *grid, nh]
    return normalize_scores(scores, "softmax", token_axes(tokens))


def token_axes(tokens: Tensor) -> tuple[int, ...]:
    """Return the grid's axes of `[B, *grid, nh, hd]`."""
    return tuple(range(1, tokens.ndim - 2))
