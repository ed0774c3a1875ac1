"""Biases of logits that a softmax cancels: kernels leave them out, and only what is not finite shows."""

from __future__ import annotations

import torch
from torch import Tensor


def with_canceled(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the weight `[heads, channels]` that stands for weight and bias: NaN where a head's bias is not finite."""
    return weight if bias is None else weight + 0 * bias[:, None]


def fill_canceled(grad_bias: Tensor | None, grad_weight: Tensor) -> None:
    """Fill the gradient of such a bias: zero, or NaN where the whole row of the weight's gradient is NaN."""
    if grad_bias is not None:
        grad_bias.zero_().masked_fill_(grad_weight.isnan().all(-1), torch.nan)
