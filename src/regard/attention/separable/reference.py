"""Separable attention (MobileViTv2) in eager PyTorch: the definition that the kernels are held to.

The family's four steps, once for every position inside a patch: the query is the score, the keys are pooled over the
patches, and the context is broadcast onto the rectified values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import dropout

from regard.attention._pooling import normalize_scores, pool


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator; the patch divides both grids."""

    query: Tensor
    key: Tensor
    value: Tensor
    patch_size: tuple[int, ...]
    dropout_p: float


def separable_attention(
    query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int], dropout_p: float = 0.0
) -> Tensor:
    """Multiply every rectified value with the pooled keys of its position in the patch, `[B, *grid_v, C]`."""
    weights = dropout(patch_weights(query, patch_size), dropout_p)
    context = pool(weights, split_axes(key, patch_size), patch_axes(patch_size))  # [B, 1, ph, 1, pw, C]
    return (split_axes(value.relu(), patch_size) * context).reshape(value.shape)


def separable_weights(query: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Return the weights of the pooling, `[B, *grid]`."""
    return patch_weights(query, patch_size).reshape(query.shape[:-1])


def patch_weights(query: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Return the softmax over the patches, `[B, H / ph, ph, W / pw, pw]` in 2-D."""
    scores = split_axes(query, patch_size).squeeze(-1)
    return normalize_scores(scores, "softmax", patch_axes(patch_size))


def split_axes(tensor: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Split every grid axis into patches and positions: `[B, H, W, C]` to `[B, H / ph, ph, W / pw, pw, C]`."""
    for axis, size in zip(patch_axes(patch_size), patch_size, strict=True):  # the axes before have become two
        tensor = tensor.unflatten(axis, (tensor.shape[axis] // size, size))
    return tensor


def patch_axes(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the axes that count patches after `split_axes`."""
    return tuple(range(1, 2 * len(patch_size), 2))
