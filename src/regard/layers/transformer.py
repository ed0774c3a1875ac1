"""The transformer block that most families are built from, and a stage of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.functional import gelu

from regard.layers.blocks import Blocks
from regard.layers.drop_path import DropPath
from regard.layers.layer_scale import LayerScale
from regard.layers.mlp import Mlp


class TransformerBlock(nn.Module):
    """Attention and an MLP on `[B, ..., C]`, each normalized first, scaled where wanted, and added.

    Args:
        dim: channels C.
        attn: the attention, on the same shape.
        mlp_ratio: hidden channels of the MLP, relative to C.
        layer_scale: what the learned factors on both branches, `ls1.gamma` and `ls2.gamma`, start with; None for none.
        drop_path_rate: stochastic depth of either branch.
        norm_layer: makes the two norms from their channels.
        activation: between the MLP's dense layers.

    Example:
        >>> import torch
        >>> TransformerBlock(8, nn.Identity(), layer_scale=1e-5)(torch.randn(2, 7, 7, 8)).shape
        torch.Size([2, 7, 7, 8])
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        *,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        activation: Callable[[Tensor], Tensor] = gelu,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attn
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[B, ..., C]`."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class Stage(nn.Module):
    """The way from the stage before, then the blocks of one resolution.

    Args:
        downsample: halves the grid; `nn.Identity()` in the first stage.
        blocks: run one after the other.

    Example:
        >>> import torch
        >>> Stage(nn.Identity(), [nn.Linear(4, 4)])(torch.randn(1, 7, 7, 4)).shape
        torch.Size([1, 7, 7, 4])
    """

    def __init__(self, downsample: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = Blocks(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce the grid, then run the blocks."""
        return self.blocks(self.downsample(x))
