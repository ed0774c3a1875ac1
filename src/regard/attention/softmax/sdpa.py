"""Softmax attention by PyTorch's own fused kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Call `scaled_dot_product_attention` on tokens; it takes strided views as they are."""
    grid = query.shape[1:-2]
    query, key, value = _tokens(query), _tokens(key), _tokens(value)
    if bias is not None:  # the fused kernels take a mask of two or four axes, no other number
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    out = scaled_dot_product_attention(query, key, value, bias, dropout_p, scale=scale)
    if bias is not None and not out.numel():  # PyTorch leaves the mask of an empty batch out of the graph
        out = out + bias[..., :1]
    out = out.transpose(1, 2)
    return out if len(grid) == 1 else out.unflatten(1, grid)


def _tokens(tensor: Tensor) -> Tensor:
    tokens = tensor if tensor.ndim == 4 else tensor.flatten(1, -3)
    return tokens.transpose(1, 2)  # [B, nh, N, hd]
