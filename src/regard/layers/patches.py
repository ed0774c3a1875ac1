"""From images to tokens, and from tokens to fewer, wider ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from regard.dense import dense


class PatchEmbed(nn.Module):
    """Cut images into square patches and project each: `[B, in_chans, H, W]` to `[B, H // p, W // p, C]`.

    Args:
        in_chans: channels of the images.
        dim: channels C of the tokens.
        patch_size: side p of a patch in pixels; rows and columns that fill none are left out.
        norm: whether a layer norm follows.

    Example:
        >>> import torch
        >>> PatchEmbed(3, 96, 4)(torch.randn(1, 3, 224, 224)).shape
        torch.Size([1, 56, 56, 96])
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, *, norm: bool = False) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Cut and project."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Join every 2 x 2 tokens: `[B, H, W, C]` to `[B, (H + 1) // 2, (W + 1) // 2, 2 * C]`.

    The four neighbors are concatenated column by column, top left, bottom left, top right, bottom right, then
    normalized and projected; an odd grid gets zeros on the right and at the bottom.

    Args:
        dim: channels C.

    Source:
        `PatchMerging` in microsoft/Swin-Transformer, models/swin_transformer.py: same parameters, same order.

    Example:
        >>> import torch
        >>> PatchMerging(8)(torch.randn(1, 7, 7, 8)).shape
        torch.Size([1, 4, 4, 16])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Join, normalize and project."""
        height, width = x.shape[1:3]
        if isinstance(height, torch.SymInt) or height % 2 or width % 2:  # a dynamic size may be odd
            x = pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [B, H / 2, 2, W / 2, 2, C]
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # [B, H / 2, W / 2, 4 * C]
        return dense(self.reduction, self.norm(x))
