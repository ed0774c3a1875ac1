"""MobileViTv2: a pyramid of inverted residuals, the last three stages with separable attention after them.

Images and features are NCHW in channels-last memory. Dense layers and attention see them as `[B, H, W, C]` views, so
nothing is copied between the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from regard.attention import SeparableAttention
from regard.layers import Blocks, DropPath, TransformerBlock, drop_path_rates
from regard.models._backbone import Backbone, initialize, pyramid
from regard.models.mobilevitv2.checkpoint import name_tensors
from regard.models.mobilevitv2.variants import VARIANTS, MobileVitV2Config, round_channels


class MobileVitV2(Backbone[MobileVitV2Config]):
    """MobileViTv2.

    Stem (one strided convolution), two stages of inverted residuals, three stages of an inverted residual and a block
    with attention, the mean over the grid, one dense layer. Images may have any size: a grid that the attention's
    patches do not fill is enlarged by interpolation, also for the later layers.

    Args:
        config: the configuration; see `MobileVitV2Config`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        MobileViTv2 (arXiv 2206.02680); apple/ml-cvnets at 7771756, `cvnets/models/classification/mobilevit_v2.py` and
        `cvnets/modules/mobilevit_block.py`. The parameters carry timm's names but for `head`. Stochastic depth is
        timm's; the authors have none.

    Example:
        >>> model = MobileVitV2(VARIANTS["mobilevitv2_050"].config, num_classes=10).eval()
        >>> model(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> features, pyramid = model.forward_intermediates(torch.randn(1, 3, 64, 64))
        >>> print(*(tuple(stage.shape[1:]) for stage in pyramid))
        (32, 32, 32) (64, 16, 16) (128, 8, 8) (192, 4, 4) (256, 2, 2)
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stem_pattern = r"^stem"
    has_batch_norms = True
    block_pattern = r"^stages\.(\d+)\.(\d+)"
    first_conv = "stem.conv"

    def __init__(self, config: MobileVitV2Config, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        self.stem = ConvNorm(in_chans, config.stem_dim, 3, stride=2)
        self.stages = nn.ModuleList(_stages(config))
        initialize(self, nn.Linear)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: MobileVitV2Config) -> list[dict[str, Any]]:
        """Return `feature_info` of the stages."""
        return pyramid("stages", config.embed_dims, 2)

    def embed(self, x: Tensor) -> Tensor:
        """Run the stem."""
        return self.stem(x.contiguous(memory_format=torch.channels_last))

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the output of a stage, which is NCHW."""
        return x

    def normalize(self, x: Tensor) -> Tensor:
        """Return the input: every stage ends in a norm."""
        return x


class ConvNorm(nn.Module):
    """A padded convolution, a batch norm, and SiLU if `activation`."""

    def __init__(
        self, dim: int, wider: int, kernel_size: int, *, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, wider, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(wider)
        self.act = nn.SiLU(inplace=True) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        return self.act(self.bn(self.conv(x)))


class InvertedResidual(nn.Module):
    """Inverted residual: a 1x1 convolution to more channels, a depth-wise one, and a 1x1 one to the output channels."""

    def __init__(self, dim: int, wider: int, stride: int, *, expand_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        hidden = round_channels(round(dim * expand_ratio), 8)
        self.residual = stride == 1 and dim == wider
        self.conv1_1x1 = ConvNorm(dim, hidden, 1)
        self.conv2_kxk = ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden)
        self.conv3_1x1 = ConvNorm(hidden, wider, 1, activation=False)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        out = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + self.drop_path(out) if self.residual else out


class AttentionBlock(nn.Module):
    """A depth-wise convolution, then attention units on half the channels, without a residual around them."""

    def __init__(self, config: MobileVitV2Config, stage: int, *, drop_path_rate: float) -> None:
        super().__init__()
        dim, narrow = config.embed_dims[2 + stage], config.attention_dims[stage]
        self.patch_size = config.patch_size
        self.conv_kxk = ConvNorm(dim, dim, 3, groups=dim)
        self.conv_1x1 = nn.Conv2d(dim, narrow, 1, bias=False)
        self.transformer = nn.Sequential(
            *(
                TransformerBlock(
                    narrow,
                    SeparableAttention(narrow, patch_size=config.patch_size),
                    mlp_ratio=config.mlp_ratio,
                    drop_path_rate=drop_path_rate,
                    norm_layer=GridNorm,
                    activation=silu,
                )
                for _ in range(config.depths[stage])
            )
        )
        self.norm = GridNorm(narrow)
        self.conv_proj = ConvNorm(narrow, dim, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`; height and width become multiples of the patch size."""
        grid = [-(-length // self.patch_size) * self.patch_size for length in x.shape[2:]]
        if isinstance(x.shape[2], torch.SymInt) or grid != list(x.shape[2:]):  # a dynamic size may need to grow
            x = interpolate(x, size=grid, mode="bilinear", align_corners=True)
        x = self.conv_1x1(self.conv_kxk(x)).permute(0, 2, 3, 1)  # [B, H, W, C / 2]
        x = self.norm(self.transformer(x))
        return self.conv_proj(x.permute(0, 3, 1, 2))


class GridNorm(nn.GroupNorm):
    """Group norm of one group on `[B, H, W, C]`: normalize each image over grid and channels.

    Faster than a layer norm over three axes, since torch's group norm reads channels-last memory.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[B, H, W, C]`."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _stages(config: MobileVitV2Config) -> list[Blocks]:
    dims = (config.stem_dim, *config.embed_dims)
    rates = drop_path_rates(config.drop_path_rate, (1, 2, 2, 2, 2))

    def inverted(stage: int, dim: int, block: int = 0) -> InvertedResidual:
        stride = 2 if stage and not block else 1
        rate = rates[stage][block]
        return InvertedResidual(dim, dims[stage + 1], stride, expand_ratio=config.expand_ratio, drop_path_rate=rate)

    return [
        Blocks(inverted(0, dims[0])),
        Blocks(inverted(1, dims[1]), inverted(1, dims[2], 1)),
        *(
            Blocks(inverted(stage, dims[stage]), AttentionBlock(config, stage - 2, drop_path_rate=rates[stage][1]))
            for stage in (2, 3, 4)
        ),
    ]
