"""The GPU kernel of additive attention: triton_kernels.py's functions, launched on tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.attention._canceled import fill_canceled, with_canceled
from regard.attention._operator import Kernel
from regard.attention.additive.reference import Arguments
from regard.gpu import launch, shares

KERNELS = launch.Kernels("regard.attention.additive.triton_kernels")


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return shares.reasons(arguments.query, *arguments.query.shape[-2:])


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`. The softmax cancels the biases of the scores, unless they are NaN or infinite."""
    out, query, key = map(_tokens, (out, query, key))
    problem = _problem(query)
    query_pools, key_pools = _pools(query, problem), _pools(query, problem)
    _pool(problem, query, _scoring(query_weight, query_bias), scale, query_pools)
    _pool(problem, key, _scoring(key_weight, key_bias), scale, key_pools, queries=query_pools)
    tensors = (out, query, key_pools.contexts, key_pools.statistics)
    problem.launch("multiply", *tensors, out.stride(), query.stride(), *problem.sizes)


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients; those of the biases are zero, or NaN where their head's are."""
    grad_query, grad_key, out, query, key = map(_tokens, (*grads[:2], grad_out, query, key))
    weights = _scoring(query_weight, query_bias), _scoring(key_weight, key_bias)
    problem = _problem(query)
    query_pools, key_pools = (_pools(query, problem, has_scores=True) for _ in range(2))
    key_sums, query_sums = (torch.empty_like(query_pools.contexts) for _ in range(2))
    query_score_grads, key_score_grads = (shares.scratch(query, *query.shape[:-1]) for _ in range(2))
    queries = shares.scratch(query, query.shape[0], query.shape[-2] * query.shape[-1])
    _pool(problem, query, weights[0], scale, query_pools, grad_out=out, sums=key_sums)
    _pool(problem, key, weights[1], scale, key_pools, queries=query_pools)
    pools = (*query_pools[:2], *key_pools[:2])
    tensors = (grad_key, key, weights[1], key_pools.scores, key_score_grads, *pools, key_sums, query_sums, queries)
    problem.launch("backward_key", *tensors, grad_key.stride(), key.stride(), *problem.sizes, problem.heads, scale)
    inputs = (grad_query, query, out, weights[0], query_pools.scores, query_score_grads, *pools, query_sums)
    steps = (grad_query.stride(), query.stride(), out.stride())
    problem.launch("backward_query", *inputs, *steps, *problem.sizes, problem.heads, scale)
    _fill_weight_grad(grads[2], query_score_grads, query, None, scale)
    _fill_weight_grad(grads[3], key_score_grads, key, queries, scale)
    for grad_weight, grad_bias in zip(grads[2:4], grads[4:6], strict=True):
        fill_canceled(grad_bias, grad_weight)


class _Pools(NamedTuple):
    contexts: Tensor  # [B * parts, C]
    statistics: Tensor  # [B * parts, 2, nh]
    scores: Tensor | None  # [B, N, nh]


class _Problem(NamedTuple):
    batch: int
    tokens: int
    heads: int
    shares: shares.Shares

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.tokens, self.shares.parts, self.shares.tiles

    def launch(self, name: str, *arguments: launch.Argument) -> None:
        programs = self.batch * self.shares.parts
        KERNELS.launch(name, programs, *arguments, SHAPE=self.shares.shape, num_warps=self.shares.warps)


def _tokens(tensor: Tensor) -> Tensor:
    """Merge the grid's axes, `[B, N, nh, hd]`; a tensor whose strides forbid it is copied."""
    return tensor.flatten(1, -3)


def _scoring(weight: Tensor, bias: Tensor | None) -> Tensor:
    return with_canceled(weight, bias).contiguous()


def _problem(query: Tensor) -> _Problem:
    batch, tokens, *sizes = query.shape
    return _Problem(batch, tokens, sizes[0], shares.share(query, batch, tokens, *sizes))


def _pools(query: Tensor, problem: _Problem, *, has_scores: bool = False) -> _Pools:
    batch, tokens, heads, dim = query.shape
    places = batch * problem.shares.parts
    scores = shares.scratch(query, batch, tokens, heads) if has_scores else None
    return _Pools(shares.scratch(query, places, heads * dim), shares.scratch(query, places, 2, heads), scores)


def _pool(
    problem: _Problem,
    tokens: Tensor,
    weight: Tensor,
    scale: float,
    pools: _Pools,
    *,
    queries: _Pools | None = None,
    grad_out: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """Pool queries, or with the pooled `queries` keys; with `grad_out`, sum its products with the tokens too."""
    joined = (None, None) if queries is None else queries[:2]
    steps = tokens.stride(), tokens.stride() if grad_out is None else grad_out.stride()
    problem.launch(
        "pool", tokens, weight, *pools, *joined, grad_out, sums, *steps, *problem.sizes, problem.heads, scale
    )


def _fill_weight_grad(
    grad: Tensor, score_grads: Tensor | None, tokens: Tensor, queries: Tensor | None, scale: float
) -> None:
    """Fill the gradient of a weight: the sum over the tokens of their scores' gradients times their channels."""
    batch, count, heads, dim = tokens.shape
    rows, width, head_rows = 64, 64, min(64, max(16, 1 << (heads - 1).bit_length()))
    blocks = -(-heads * dim // width) * -(-heads // head_rows)
    tiles = -(-count // rows)
    tiles = -(-tiles // min(tiles, -(-4 * launch.multiprocessors(tokens) // (batch * blocks))))
    parts = -(-count // (rows * tiles))
    partial = shares.scratch(tokens, batch * parts, heads, heads * dim)
    KERNELS.launch(
        "backward_weight",
        batch * parts * blocks,
        *(partial, score_grads, tokens, queries, tokens.stride(), count, parts, tiles, scale),
        HEADS=heads,
        DIM=dim,
        TOKENS=rows,
        HEADS_TILE=head_rows,
        WIDTH=width,
        PRECISION=launch.precision(tokens),
        num_warps=4,
    )
    grad.copy_(partial.sum(0))


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)
