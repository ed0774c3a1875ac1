"""A learned factor per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiply every channel of a channels-last tensor by a learned factor, the parameter `gamma`, `[C]`.

    Args:
        dim: channels C.
        init: the factors at the start.

    Source:
        CaiT (arXiv 2103.17239), section 2.

    Example:
        >>> LayerScale(3, init=0.5)(torch.ones(1, 2, 3)).sum().item()
        3.0
    """

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale `[..., C]`."""
        return x * self.gamma
