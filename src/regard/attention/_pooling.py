"""Shared core of the pooled mechanisms: additive, efficient additive and separable attention.

1. Score every token: a projection, each mechanism's own.
2. Normalize the scores over the tokens: `normalize_scores`.
3. Pool the tokens to one context vector: `pool`.
4. Broadcast the context onto every token: a product, `context * tokens`.

The cost is linear in the number of tokens. This file is part of the three references: like them, it imports torch only.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TokenNorm = Literal["softmax", "l2", "ones"]


def normalize_scores(scores: Tensor, how: TokenNorm, dims: tuple[int, ...]) -> Tensor:
    """Normalize scores to weights over the tokens.

    Args:
        scores: one per token, any shape.
        how: "softmax"; "l2", signed weights whose squares sum to 1; "ones", independent of the scores.
        dims: the axes of the tokens.
    """
    if how == "softmax":
        last = tuple(range(-len(dims), 0))
        moved = scores.movedim(dims, last)
        return moved.flatten(-len(dims)).softmax(-1).reshape(moved.shape).movedim(last, dims)
    if how == "l2":
        return l2_normalize(scores, dims)
    return scores.unsqueeze(-1).softmax(-1).squeeze(-1)  # ones that leave the scores a gradient: zero, not None


def l2_normalize(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide by the Euclidean norm along `dims`, as `torch.nn.functional.normalize` does; a zero vector stays zero."""
    smallest = max(1e-12, torch.finfo(tensor.dtype).smallest_normal)  # 1e-12 is 0 in float16, and 0 / 0 is NaN
    return tensor / torch.linalg.vector_norm(tensor, dim=dims, keepdim=True).clamp_min(smallest)


def pool(weights: Tensor, tokens: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum the weighted tokens along `dims`, `[..., C]`, and keep these axes, of size 1, for broadcasting."""
    return (weights.unsqueeze(-1) * tokens).sum(dims, keepdim=True)
