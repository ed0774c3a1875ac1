"""Separable attention (MobileViTv2): every token sees one pooled key, apart for every position inside a patch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.separable import reference
from regard.attention.separable.arguments import prepare
from regard.attention.separable.op import OPERATOR


@overridable
@autocasting
def separable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    patch_size: int | Sequence[int] = 1,
    dropout_p: float = 0.0,
    backend: Backend = None,
) -> Tensor:
    r"""Multiply every rectified value by one key, pooled over the patches.

    $$ s = \mathrm{softmax}_n(q), \quad c = \sum_n s_n k_n, \quad y_n = \mathrm{relu}(v_n) \odot c $$

    The grid is cut into patches of `patch_size`, and n counts the patches: positions attend to one another if they
    have the same place in their patches, which is equal remainders by `patch_size`, and never mix otherwise. With a
    patch_size of 1 all positions attend to one another. The query is the score itself; there is no scale.

    Args:
        query: `[B, *grid, 1]`, one score per key; a grid of one, two or three axes.
        key: `[B, *grid, C]`.
        value: `[B, *grid_v, C]`. Its grid may differ from the key's, which makes the call cross-attention: query and
            key come from one feature map, value from the other.
        patch_size: positions of a patch per axis; divides both grids. MobileViTv2 uses 2 on an image. On a tensor that
            is unfolded already, `[B, P, N, C]` with P positions and N patches, it is (P, 1); 1 would mix the positions.
        dropout_p: probability of dropping an attention weight.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        `[B, *grid_v, C]`.

    Raises:
        ShapeError: sizes that do not fit together, or a grid that patch_size does not divide.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        2 * B * (M + N) * C FLOPs for M keys and N values. Reads B * (M + N) * C elements and writes B * N * C. The
        kernel holds sums of runs of up to 32 tokens besides, the reference temporaries of the inputs' size.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs.

    Source:
        MobileViTv2 (arXiv 2206.02680); `LinearSelfAttention` of apple/ml-cvnets, cvnets/layers/linear_attention.py.

    Example:
        >>> import torch
        >>> scores, k, v = torch.randn(1, 16, 16, 1), torch.randn(1, 16, 16, 32), torch.randn(1, 16, 16, 32)
        >>> separable_attention(scores, k, v, patch_size=2).shape
        torch.Size([1, 16, 16, 32])
    """
    arguments, reasons = prepare(query, key, value, patch_size=patch_size, dropout_p=dropout_p)
    if choose_backend(backend, reasons) == "fused":
        return OPERATOR(*arguments[:-1])
    return reference.separable_attention(*arguments)


def separable_weights(query: Tensor, *, patch_size: int | Sequence[int] = 1) -> Tensor:
    """Return the weights with which `separable_attention` pools, before dropout; neither key nor value is needed.

    Returns:
        `[B, *grid]`; they sum to 1 over the patches, for every position inside a patch.

    Example:
        >>> import torch
        >>> separable_weights(torch.zeros(1, 4, 6, 1), patch_size=2)[0, 0, 0]
        tensor(0.1667)
    """
    arguments, _ = prepare(query, query, query, patch_size=patch_size)
    return reference.separable_weights(query, arguments.patch_size)
