"""The feed-forward part of a transformer block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu


class Mlp(nn.Module):
    """Two dense layers with an exact GELU between them, on the last axis.

    Args:
        dim: channels C in and out.
        hidden_dim: channels between the layers.
        drop: dropout after either layer, in training.

    Cost:
        4 * C * hidden_dim FLOPs per token.

    Example:
        >>> import torch
        >>> Mlp(8, 32)(torch.randn(2, 7, 7, 8)).shape
        torch.Size([2, 7, 7, 8])
    """

    def __init__(self, dim: int, hidden_dim: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        return self.drop(self.fc2(self.drop(gelu(self.fc1(x)))))
