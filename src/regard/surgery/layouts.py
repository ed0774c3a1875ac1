"""Tensor layouts that timm and transformers share, on regard's functions."""

from __future__ import annotations

from torch import Tensor

from regard.attention import Backend, separable_attention


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Split channels into heads: `[..., nh * hd]` to `[..., nh, hd]`."""
    return x.unflatten(-1, (-1, head_dim))


def window_bias(table: Tensor, window_size: tuple[int, ...]) -> Tensor:
    """Convert Swin's table to the `bias` of `window_attention`.

    Args:
        table: `[prod(2 * w - 1), nh]`, indexed by query minus key.
        window_size: `w` per axis.
    """
    return table.unflatten(0, [2 * size - 1 for size in window_size]).movedim(-1, 0).flip((1, 2))


def attend_to_patches(projected: Tensor, dim: int, backend: Backend) -> Tensor:
    """Apply separable attention to the projection of N unfolded patches: `[B, 1 + 2 * C, P, N]` to `[B, C, P, N]`.

    With `backend=None`, a projection whose channels are not adjacent in memory is computed here from its definition,
    since the kernel would first gather the channels of every token.
    """
    if backend is None and projected.stride(1) != 1:
        query, key, value = projected.split([1, dim, dim], 1)
        return value.relu() * (key * query.softmax(-1)).sum(-1, keepdim=True)
    query, key, value = projected.permute(0, 2, 3, 1).split([1, dim, dim], -1)  # views, [B, P, N, ...]
    out = separable_attention(query, key, value, patch_size=(projected.shape[2], 1), backend=backend)
    return out.permute(0, 3, 1, 2)
