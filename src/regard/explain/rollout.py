"""Composition of the attention of several layers, down to the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.explain.maps import AttentionMap
from regard.explain.tokens import Tokens, spread


@dataclass(frozen=True)
class Relevance:
    """How much tokens matter, and which part of the image they stand for.

    Attributes:
        values: `[B, N]`.
        tokens: of the layer.
    """

    values: Tensor
    tokens: Tokens

    def on(self, tokens: Tokens) -> Relevance:
        """Return the relevance on another layer's tokens.

        The grid's is distributed by area. That of tokens in front stays with them, or is lost where there are none.
        """
        if tokens == self.tokens:
            return self
        grid = self.tokens.on_grid(self.values)
        if tokens.grid != self.tokens.grid:
            grid = spread(grid, tokens.grid)
        front = self.values[:, : self.tokens.prefix]
        if tokens.prefix != self.tokens.prefix:
            front = front.new_zeros(len(front), tokens.prefix)
        return Relevance(torch.cat([front, grid.flatten(1)], 1), tokens)

    def image(self) -> Tensor:
        """Return the relevance of the grid, `[B, h, w]`."""
        return self.tokens.on_grid(self.values)


Step = Callable[[AttentionMap, Tensor], Tensor]
"""Takes a layer's map and the relevance of its outputs, and returns that of its inputs."""


def follow(
    maps: Sequence[AttentionMap], size: tuple[int, int], step: Step, query: int | None = None, parts: int = 1
) -> Relevance:
    """Follow relevance from the outputs of the last layer to the inputs of the first.

    Args:
        maps: of the layers, first to last.
        size: height and width of the image.
        step: how relevance passes one layer.
        query: the token of the last layer to start from; None starts from the class token, or from all tokens
            equally if there is none.
        parts: relevances that the step takes side by side, `[parts * B, N]`. The first starts as above, the others
            start with 0.

    Memory and time:
        Linear in the number of weights. No product of two layers is stored.
    """
    relevance = _start(maps[-1], size, query, parts)
    for attention in reversed(maps):
        tokens = Tokens.of(attention.key_grid, size)
        relevance = relevance.on(tokens)
        if math.prod(attention.query_grid) == tokens.total:
            values = step(attention, relevance.values)
        else:  # class attention: only the first token has a query, and only it changes
            first = step(attention, relevance.values[:, :1])
            values = first + torch.cat([torch.zeros_like(first[:, :1]), relevance.values[:, 1:]], 1)
        relevance = Relevance(values, tokens)
    return relevance


def residual_step(attention: AttentionMap, values: Tensor) -> Tensor:
    """Give half of the relevance to the token itself, and half to those it attends to.

    Negative weights, of talking heads and of SwiftFormer, count by their size. Weights are scaled to a sum of 1.

    Source:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers (arXiv 2005.00928, section 3).
    """
    mean = attention.weights.mean(1, keepdim=True).abs()
    total = mean.sum(-1, keepdim=True)
    pulled = attention.with_weights(mean / total.clamp_min(torch.finfo(mean.dtype).tiny)).pull(values)
    return (own_step(attention, values) + pulled) / 2


def additive_step(attention: AttentionMap, values: Tensor) -> Tensor:
    """Keep the relevance of the token itself, and add that of those it attends to.

    What a token keeps of itself through all layers and what attention adds are apart, `[2 * B, N]`: their sum would
    round small additions away.
    """
    kept, added = values.chunk(2)
    added = own_step(attention, added) + attention.pull(kept + added)
    return torch.cat([own_step(attention, kept), added])


def own_step(attention: AttentionMap, values: Tensor) -> Tensor:
    """Leave the relevance with the token itself."""
    return pad(values, (0, math.prod(attention.key_grid) - values.shape[1]))


def _start(attention: AttentionMap, size: tuple[int, int], query: int | None, parts: int) -> Relevance:
    tokens = Tokens.of(attention.key_grid, size)
    batch = attention.weights.shape[0]
    values = torch.zeros(batch, tokens.total, dtype=attention.weights.dtype, device=attention.weights.device)
    if query is not None:
        values[:, query] = 1
    elif tokens.prefix:
        values[:, 0] = 1
    else:
        values[:] = 1 / tokens.total
    return Relevance(torch.cat([values, *[torch.zeros_like(values)] * (parts - 1)]), tokens)
