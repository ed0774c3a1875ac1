"""Talking-heads attention in eager PyTorch: every query sees every key, and the heads are mixed around the softmax."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import dropout


class Arguments(NamedTuple):
    """Checked arguments, in the order of the reference and the operator."""

    query: Tensor
    key: Tensor
    value: Tensor
    logits_mix: Tensor
    weights_mix: Tensor
    logits_bias: Tensor | None
    weights_bias: Tensor | None
    scale: float
    dropout_p: float


def talking_heads_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend from every token to all tokens with mixed weights, `[B, *grid, h_v, hd_v]`."""
    weights = talking_heads_weights(query, key, logits_mix, weights_mix, logits_bias, weights_bias, scale)
    out = dropout(weights, dropout_p) @ _tokens(value)  # [B, h_v, N, hd]
    return out.transpose(1, 2).unflatten(1, query.shape[1:-2])


def talking_heads_weights(
    query: Tensor,
    key: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the weights after the second mix, which multiply the values, `[B, h_v, N, M]`."""
    logits = (_tokens(query) * scale) @ _tokens(key).transpose(-2, -1)  # [B, h_k, N, M]
    weights = _mix_heads(logits, logits_mix, logits_bias).softmax(-1)  # [B, h, N, M]
    return _mix_heads(weights, weights_mix, weights_bias)


def _tokens(tensor: Tensor) -> Tensor:
    return tensor.flatten(1, -3).transpose(1, 2)  # [B, nh, N, hd]


def _mix_heads(pairs: Tensor, mix: Tensor, bias: Tensor | None) -> Tensor:
    mixed = (mix @ pairs.flatten(2)).unflatten(2, pairs.shape[2:])
    return mixed if bias is None else mixed + bias[:, None, None]
