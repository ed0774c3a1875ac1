"""Separable attention (MobileViTv2) in eager PyTorch: the definition that the kernels are held to.

The family's four steps, once for every position inside a patch: the query is the score, the keys are pooled over the
patches, and the context is broadcast onto the rectified values.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import dropout

from regard.attention._pooling import normalize_scores, pool


def separable_attention(
    query: Tensor, key: Tensor, value: Tensor, patch_size: tuple[int, ...], dropout_p: float
) -> Tensor:
    """Multiply every rectified value with the pooled keys of its position in the patch."""
    weights = dropout(patch_weights(query, patch_size), dropout_p)
    context = pool(weights, split_axes(key, patch_size), patch_axes(patch_size))  # [B, 1, ph, 1, pw, C]
    return (split_axes(value.relu(), patch_size) * context).reshape(value.shape)


def separable_weights(query: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Return the weights of the pooling, `[B, *grid]`."""
    return patch_weights(query, patch_size).reshape(query.shape[:-1])


def patch_weights(query: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Take the softmax over the patches, `[B, H / ph, ph, W / pw, pw]` in 2-D."""
    scores = split_axes(query, patch_size).squeeze(-1)
    return normalize_scores(scores, "softmax", patch_axes(patch_size))


def split_axes(tensor: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Split every grid axis into patches and positions: `[B, H, W, C]` to `[B, H / ph, ph, W / pw, pw, C]`."""
    for axis, size in zip(patch_axes(patch_size), patch_size, strict=True):  # the axes before have become two
        tensor = tensor.unflatten(axis, (tensor.shape[axis] // size, size))
    return tensor


def patch_axes(patch_size: tuple[int, ...]) -> tuple[int, ...]:
    """Say where `split_axes` puts the patches."""
    return tuple(range(1, 2 * len(patch_size), 2))
