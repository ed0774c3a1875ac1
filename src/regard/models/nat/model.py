"""NAT and DiNAT: a pyramid of transformer blocks with neighborhood attention, dilated in every second block of DiNAT.

Grids are channels-last throughout. Convolutions see them as NCHW views, so nothing is copied between the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import NeighborhoodAttention2d
from regard.layers import Stage, TransformerBlock, drop_path_rates
from regard.models._backbone import Backbone, initialize, pyramid
from regard.models.nat.checkpoint import name_tensors
from regard.models.nat.variants import VARIANTS, NatConfig


class Nat(Backbone[NatConfig]):
    """Neighborhood Attention Transformer, and with dilations, Dilated Neighborhood Attention Transformer.

    Tokenizer (two convolutions, then a layer norm), levels of blocks with a strided convolution and a layer norm
    between them, a last layer norm, the mean over the grid, one dense layer. Images may have any size: grids smaller
    than a window are padded before the attention's projection, as in the code that trained the published weights.

    Args:
        config: the configuration; see `NatConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        NAT (arXiv 2204.07143), DiNAT (2209.15001); SHI-Labs/Neighborhood-Attention-Transformer at d334f5b,
        `classification/nat.py` and `dinat.py`.

    Example:
        >>> model = Nat(VARIANTS["nat_nano"].config, num_classes=10).eval()
        >>> model(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 10])
        >>> features, pyramid = model.forward_intermediates(torch.randn(1, 3, 32, 32))
        >>> print(*(tuple(level.shape[1:]) for level in pyramid))
        (32, 32, 32) (64, 16, 16) (128, 8, 8)
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stage_list = "levels"
    block_pattern = r"^levels\.(\d+)\.blocks\.(\d+)"
    first_conv = "patch_embed.proj.0"

    def __init__(self, config: NatConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        dims = _dims(config)
        rates = drop_path_rates(config.drop_path_rate, config.depths)
        self.patch_embed = Tokenizer(in_chans, dims[0], config.stem_strides)
        self.levels = nn.ModuleList(
            Stage(Downsample(dim // 2) if level else nn.Identity(), _blocks(config, level, dim, rates[level]))
            for level, dim in enumerate(dims)
        )
        self.norm = nn.LayerNorm(self.num_features)
        initialize(self, nn.Linear)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: NatConfig) -> list[dict[str, Any]]:
        """Return `feature_info` of the levels."""
        return pyramid("levels", _dims(config), config.stem_strides[0] * config.stem_strides[1])


class Tokenizer(nn.Module):
    """Two consecutive 3x3 convolutions, then a layer norm: images to `[B, H, W, C]`."""

    def __init__(self, in_chans: int, dim: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, strides[0], 1),
            nn.Conv2d(dim // 2, dim, 3, strides[1], 1),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Cut images `[B, in_chans, H, W]` into tokens."""
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """Downsampling: a strided 3x3 convolution without bias, which doubles the channels, then a layer norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce `[B, H, W, C]` to `[B, (H + 1) // 2, (W + 1) // 2, 2 * C]`."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _dims(config: NatConfig) -> list[int]:
    return [config.embed_dim * 2**level for level in range(len(config.depths))]


def _blocks(config: NatConfig, level: int, dim: int, rates: Sequence[float]) -> list[nn.Module]:
    dilations = cycle((1, config.dilations[level]))
    return [
        TransformerBlock(
            dim,
            NeighborhoodAttention2d(
                dim,
                config.num_heads[level],
                config.kernel_size,
                dilation=next(dilations),
                small_grid=config.small_grid,
            ),
            mlp_ratio=config.mlp_ratio,
            layer_scale=config.layer_scale,
            drop_path_rate=rate,
        )
        for rate in rates
    ]
