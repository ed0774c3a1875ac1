"""NAT and DiNAT: a pyramid of transformer blocks with neighborhood attention, dilated in every second block of DiNAT.

Grids are channels-last throughout. Convolutions see them as NCHW views, so nothing is copied between the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import cycle

import torch
from torch import Tensor, nn

from regard.attention import NeighborhoodAttention2d
from regard.layers import Blocks, DropPath, Mlp, drop_path_rates
from regard.models._backbone import Backbone, initialise
from regard.models.nat.variants import VARIANTS, NatConfig


class Nat(Backbone):
    """Neighborhood Attention Transformer, and with dilations, Dilated Neighborhood Attention Transformer.

    Tokenizer (two convolutions, then a layer norm), levels of blocks with a strided convolution and a layer norm
    between them, a last layer norm, the mean over the grid, one dense layer. Images of any size: grids smaller than a
    window are padded before the attention's projection, as in the code that the published weights were trained with.

    Args:
        config: the variant; see `NatConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: sizes of the configuration that do not fit together.

    Source:
        NAT (arXiv 2204.07143), DiNAT (2209.15001); SHI-Labs/Neighborhood-Attention-Transformer at d334f5b,
        `classification/nat.py` and `dinat.py`. The parameters carry the authors' names.

    Example:
        >>> model = Nat(VARIANTS["nat_nano"], num_classes=10).eval()
        >>> model(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 10])
        >>> [tuple(level.shape[1:]) for level in model.forward_intermediates(torch.randn(1, 3, 32, 32))]
        [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    """

    variants = VARIANTS

    def __init__(self, config: NatConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        dims = [config.embed_dim * 2**level for level in range(len(config.depths))]
        rates = drop_path_rates(config.drop_path_rate, config.depths)
        self.patch_embed = Tokenizer(in_chans, dims[0], config.stem_strides)
        self.levels = nn.ModuleList(Level(config, level, rates[level]) for level in range(len(dims)))
        self.num_features = dims[-1]
        self.norm = nn.LayerNorm(self.num_features)
        first = config.stem_strides[0] * config.stem_strides[1]
        self.feature_info = [
            {"num_chs": dim, "reduction": first * 2**level, "module": f"levels.{level}"}
            for level, dim in enumerate(dims)
        ]
        initialise(self, nn.Linear)
        self.reset_classifier(num_classes)

    def forward_stages(self, x: Tensor, keep: Collection[int]) -> tuple[Tensor, list[Tensor]]:
        """Run all levels; features are taken before the convolution that leads to the next level."""
        x = self.patch_embed(x)  # [B, H, W, C]
        kept = []
        for index, level in enumerate(self.levels):
            x = level(x)
            if index in keep:
                kept.append(x.permute(0, 3, 1, 2))
            x = level.get_submodule("downsample")(x)
        return x.permute(0, 3, 1, 2), kept

    def finish(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def no_weight_decay(self) -> set[str]:
        """Name the relative bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}


class Tokenizer(nn.Module):
    """Two 3x3 convolutions with nothing between them, then a layer norm: images to `[B, H, W, C]`."""

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


class Level(nn.Module):
    """The blocks of one resolution, and the way to the next, which the model calls once it has taken the features."""

    def __init__(self, config: NatConfig, level: int, rates: Sequence[float]) -> None:
        super().__init__()
        dim, num_heads = config.embed_dim * 2**level, config.num_heads[level]
        dilations = cycle((1, config.dilations[level]))
        self.blocks = Blocks(*(Block(config, dim, num_heads, next(dilations), drop_path_rate=rate) for rate in rates))
        self.downsample = Downsample(dim) if level + 1 < len(config.depths) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks on `[B, H, W, C]`."""
        return self.blocks(x)


class Block(nn.Module):
    """Neighborhood attention and an MLP, each normalised first, scaled where the variant is, and added."""

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(self, config: NatConfig, dim: int, num_heads: int, dilation: int, *, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention2d(
            dim, num_heads, config.kernel_size, dilation=dilation, small_grid=config.small_grid
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        for name in ("gamma1", "gamma2"):
            factors = None if config.layer_scale is None else nn.Parameter(torch.full((dim,), config.layer_scale))
            self.register_parameter(name, factors)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, H, W, C]`."""
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x)), self.gamma1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma2))


class Downsample(nn.Module):
    """Halve the grid and widen the channels: a 3x3 convolution without bias, then a layer norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce `[B, H, W, C]` to `[B, (H + 1) // 2, (W + 1) // 2, 2 * C]`."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _scaled(x: Tensor, factors: Tensor | None) -> Tensor:
    return x if factors is None else x * factors
