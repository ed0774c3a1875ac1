"""Efficient additive attention (SwiftFormer) in eager PyTorch: the definition that the kernels are held to.

The family's four steps: one vector scores the unit queries, the scores are normalized over the tokens, the queries
are pooled to one context vector, and that is broadcast onto the unit keys.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from regard.attention._pooling import TokenNorm, l2_normalize, normalize_scores, pool


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator."""

    query: Tensor
    key: Tensor
    weight: Tensor
    token_norm: TokenNorm
    scale: float


def efficient_additive_attention(
    query: Tensor, key: Tensor, weight: Tensor, token_norm: TokenNorm, scale: float
) -> tuple[Tensor, Tensor]:
    """Multiply every unit key with the pooled query; return the products and the unit queries, `[B, *grid, C]`."""
    query, key = l2_normalize(query, (-1,)), l2_normalize(key, (-1,))
    weights = token_weights(query, weight, token_norm, scale)
    context = pool(weights, query, tuple(range(1, query.ndim - 1)))  # [B, 1 per grid axis, C]
    return context * key, query


def efficient_additive_weights(query: Tensor, weight: Tensor, token_norm: TokenNorm, scale: float) -> Tensor:
    """Return the weights of the pooling."""
    return token_weights(l2_normalize(query, (-1,)), weight, token_norm, scale)


def token_weights(query: Tensor, weight: Tensor, token_norm: TokenNorm, scale: float) -> Tensor:
    """Score every unit query and normalize the scores over the tokens."""
    scores = (query @ weight.unsqueeze(-1)).squeeze(-1) * scale  # [B, *grid]; runtimes are slow at matrix times vector
    return normalize_scores(scores, token_norm, tuple(range(1, scores.ndim)))
