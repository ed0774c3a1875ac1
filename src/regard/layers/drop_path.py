"""Stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from regard.errors import ShapeError


class DropPath(nn.Module):
    """Drop a residual branch for some samples of the batch, in training only.

    The branch of each sample is zeroed with probability `rate`; those that stay are scaled by 1 / (1 - rate), so that
    the expectation is kept.

    Args:
        rate: probability in [0, 1); 0 is the identity.

    Raises:
        ShapeError: a rate outside [0, 1).

    Source:
        Deep Networks with Stochastic Depth (arXiv 1603.09382), per sample as in timm.

    Example:
        >>> import torch
        >>> DropPath(0.5).eval()(torch.ones(4, 2, 2, 3)).sum().item()
        48.0
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ShapeError(f"rate must be in [0, 1), got {rate}; 0 drops nothing")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of `[B, ...]`."""
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)  # [B, 1, ...]
        return x * (kept / (1.0 - self.rate))

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Spread the rates of stochastic depth over all blocks of a network, linearly from 0 to `rate`.

    Args:
        rate: the last block's rate.
        depths: blocks per stage.

    Returns:
        One list per stage, with one rate per block.

    Example:
        >>> drop_path_rates(0.25, [2, 3])
        [[0.0, 0.0625], [0.125, 0.1875, 0.25]]
    """
    steps = max(sum(depths) - 1, 1)
    return [
        [rate * (sum(depths[:stage]) + block) / steps for block in range(depth)] for stage, depth in enumerate(depths)
    ]
