"""Gradients with respect to attention weights, from the gradients of the outputs of fused calls.

The weights never exist in a fused call. Their gradient is a product of what does: of the output's gradient and the
values that the weights have multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from regard.attention.grid import crop_grid
from regard.explain.maps import OUTSIDE, AttentionMap
from regard.explain.record import Call


def output_of(call: Call) -> Tensor:
    """Return the output of a call that its weights enter."""
    return call.output[0] if isinstance(call.output, tuple) else call.output


def weight_gradient(call: Call, attention: AttentionMap, gradient: Tensor) -> AttentionMap:
    """Return a map with the gradient of a score in place of the weights.

    Args:
        call: as recorded.
        attention: its map.
        gradient: of the score, with respect to `output_of(call)`.

    Returns:
        `[B, nh, N, K]` as in `attention`; padding has a gradient of 0. Where one context serves all queries, the weight
        of a token is one number, and its gradient the same for every query.
    """
    gradient = call.on_grid(gradient)
    arguments = {name: value.detach() if isinstance(value, Tensor) else value for name, value in call.arguments.items()}
    pooled = POOLED.get(call.mechanism.name)
    if pooled is not None:
        weights = pooled(arguments, call, gradient)  # [B, M, nh]
        by_token = weights.transpose(1, 2)  # [B, nh, M]
        shape = attention.weights.shape
        if attention.keys is None:
            return attention.with_weights(by_token.unsqueeze(2).expand(shape))
        return attention.with_weights(by_token[:, :, attention.keys])
    value = _crop(arguments["value"], attention.key_grid)
    return attention.with_weights(_products(_crop(gradient, attention.query_grid), value, attention.keys))


def _products(gradient: Tensor, value: Tensor, keys: Tensor | None) -> Tensor:
    """Multiply gradients `[B, N, nh, hd]` with the values `[B, M, nh, hd]` of their keys, `[B, nh, N, K]`."""
    if keys is None:
        return torch.einsum("bnhd,bmhd->bhnm", gradient, value)
    products = []
    for some, chunk in zip(gradient.split(CHUNK, 1), keys.split(CHUNK), strict=True):
        seen = value[:, chunk] * (chunk != OUTSIDE)[:, :, None, None]  # [B, n, K, nh, hd]
        products.append(torch.einsum("bnhd,bnkhd->bhnk", some, seen))
    return torch.cat(products, 2)


CHUNK = 1024
"""Queries whose values are gathered at once."""


def _crop(tensor: Tensor, grid: Sequence[int]) -> Tensor:
    """Return `[B, *grid, nh, hd]` as `[B, N, nh, hd]`, without what a module's padding has added."""
    return crop_grid(tensor, grid).flatten(1, -3)


def _efficient_additive(arguments: Mapping[str, Any], call: Call, gradient: Tensor) -> Tensor:
    """The context, a sum of unit queries, is multiplied with every unit key."""
    unit_key, unit_query = normalize(arguments["key"], dim=-1), normalize(arguments["query"], dim=-1)
    context = (gradient * unit_key).flatten(1, -2).sum(1)  # [B, C]
    return unit_query.flatten(1, -2) @ context.unsqueeze(-1)  # [B, M, 1]


def _separable(arguments: Mapping[str, Any], call: Call, gradient: Tensor) -> Tensor:
    """The context of a place, a sum of keys, is multiplied with every rectified value of that place."""
    attention = call.map()
    keys = attention.keys
    assert keys is not None
    contexts = (gradient * arguments["value"].relu()).flatten(1, -2)  # [B, N, C]
    place = keys.amin(1)  # the first token of a place, the same for all its queries
    summed = torch.zeros(contexts.shape[0], math.prod(attention.key_grid), contexts.shape[-1]).to(contexts)
    summed.index_add_(1, place, contexts)
    first = torch.empty_like(place.new_zeros(math.prod(attention.key_grid)))
    first[keys.flatten()] = place.unsqueeze(1).expand_as(keys).flatten()
    return (summed[:, first] * arguments["key"].flatten(1, -2)).sum(-1, keepdim=True)


def _additive(arguments: Mapping[str, Any], call: Call, gradient: Tensor) -> Tensor:
    """The global key, a sum of keys times the global query, is multiplied with every query."""
    alpha, _ = call.mechanism.weights(**{name: value for name, value in arguments.items() if name not in ("backend",)})
    query, key = (arguments[name].flatten(1, -3) for name in ("query", "key"))  # [B, N, nh, hd]
    products = key * (alpha.flatten(1, -2).unsqueeze(-1) * query).sum(1, keepdim=True)
    context = (gradient.flatten(1, -3) * query).sum(1, keepdim=True)
    return (products * context).sum(-1)  # [B, M, nh]


POOLED: Mapping[str, Callable[[Mapping[str, Any], Call, Tensor], Tensor]] = {
    "additive": _additive,
    "efficient_additive": _efficient_additive,
    "separable": _separable,
}
"""The mechanisms with one context for all queries."""
