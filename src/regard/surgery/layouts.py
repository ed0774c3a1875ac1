"""Tensor layouts that timm, torchvision and transformers share, on regard's functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function

from regard.attention import Backend, separable_attention
from regard.dense import dense

MAX_LOGIT_SCALE = math.log(100.0)
"""Swin V2 does not multiply cosines by more than 100."""


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Split channels into heads: `[..., nh * hd]` to `[..., nh, hd]`."""
    return x.unflatten(-1, (-1, head_dim))


def split_qkv(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the output of a common projection into query, key and value, `[..., 3 * nh * hd]` to `[..., nh, hd]`."""
    query, key, value = qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3)
    return query, key, value


def window_bias(table: Tensor, window_size: tuple[int, ...]) -> Tensor:
    """Convert Swin's table to the `bias` of `window_attention`.

    Args:
        table: `[prod(2 * w - 1), nh]`, indexed by query minus key.
        window_size: `w` per axis.
    """
    axes = range(1, len(window_size) + 1)
    return table.unflatten(0, [2 * size - 1 for size in window_size]).movedim(-1, 0).flip(tuple(axes))


def continuous_window_bias(mlp: nn.Module, coordinates: Tensor, window_size: tuple[int, ...]) -> Tensor:
    """Compute the `bias` of `window_attention` from Swin V2's MLP over relative coordinates.

    Args:
        mlp: returns a number per head, which a sigmoid maps to 0 ... 16.
        coordinates: `[1, 2 * w - 1, ..., axes]`, from the most negative query minus key on.
        window_size: `w` per axis.
    """
    return 16 * torch.sigmoid(window_bias(mlp(coordinates).flatten(0, -2), window_size))


def scaled_cosine(query: Tensor, key: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize `[..., nh, hd]` queries and keys, so that their products are Swin V2's logits without the bias.

    Args:
        query: is also multiplied by the heads' factors.
        key: normalized only.
        logit_scale: the logarithm of a factor for each head, `[nh]` or `[nh, 1, 1]`.
    """
    factor = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().reshape(-1, 1)  # [nh, 1]
    return query * (factor / _norm(query)), key / _norm(key)


def _norm(x: Tensor) -> Tensor:
    """Return the length of every vector; at least 1e-12, as in `torch.nn.functional.normalize`."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


def project_with_bias(layer: nn.Linear, x: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a dense layer with another bias than its own."""
    return nn.functional.linear(x, layer.weight, bias) if bias is not None else dense(layer, x)


def attend_to_patches(projected: Tensor, dim: int, backend: Backend) -> Tensor:
    """Apply separable attention to the projection of N unfolded patches: `[B, 1 + 2 * C, P, N]` to `[B, C, P, N]`.

    With `backend=None`, a projection whose channels are not adjacent in memory is computed here from its definition,
    since the kernel would first gather the channels of every token; unless the call is observed, which a mode like
    that of `regard.explain` does by the name of the function.
    """
    if backend is None and projected.stride(1) != 1 and not has_torch_function((projected,)):
        query, key, value = projected.split([1, dim, dim], 1)
        return value.relu() * (key * query.softmax(-1)).sum(-1, keepdim=True)
    query, key, value = projected.permute(0, 2, 3, 1).split([1, dim, dim], -1)  # views, [B, P, N, ...]
    out = separable_attention(query, key, value, patch_size=(projected.shape[2], 1), backend=backend)
    return out.permute(0, 3, 1, 2)
