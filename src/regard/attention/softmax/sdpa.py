"""Softmax attention by PyTorch's own fused kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Call `scaled_dot_product_attention` on tokens; it takes strided views as they are."""
    grid = query.shape[1:-2]
    query, key, value = (tensor.flatten(1, -3).transpose(1, 2) for tensor in (query, key, value))  # [B, nh, N, hd]
    if bias is not None:  # the fused kernels take a mask of two or four axes, no other number
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    out = scaled_dot_product_attention(query, key, value, bias, dropout_p, scale=scale)
    if bias is not None and not out.numel():  # PyTorch leaves the mask of an empty batch out of the graph
        out = out + bias[..., :1]
    return out.transpose(1, 2).unflatten(1, grid)
