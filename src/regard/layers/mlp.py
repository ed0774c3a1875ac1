"""The feed-forward part of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import gelu

from regard.dense import mlp


class Mlp(nn.Module):
    """Two dense layers with an activation between them, on the last axis.

    Args:
        dim: channels C in and out.
        hidden_dim: channels between the layers.
        activation: between the layers; the exact GELU by default.

    Cost:
        4 * C * hidden_dim FLOPs per token.

    Example:
        >>> import torch
        >>> Mlp(8, 32)(torch.randn(2, 7, 7, 8)).shape
        torch.Size([2, 7, 7, 8])
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        activation: Callable[[Tensor], Tensor] = gelu,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        return mlp(self.fc1, self.fc2, x, activation=self.activation)
