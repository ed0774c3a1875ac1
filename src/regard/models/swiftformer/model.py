"""SwiftFormer: a pyramid of convolutional blocks, the last one of each stage with efficient additive attention.

Images and features are NCHW in channels-last memory. Dense layers and attention see them as `[B, H, W, C]` views, so
nothing is copied between the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from regard.attention import EfficientAdditiveAttention
from regard.dense import mlp
from regard.layers import DropPath, LayerScale, Stage, drop_path_rates
from regard.models._backbone import Backbone, initialize, pyramid
from regard.models.swiftformer.checkpoint import name_tensors
from regard.models.swiftformer.variants import VARIANTS, SwiftFormerConfig


class SwiftFormer(Backbone[SwiftFormerConfig]):
    """SwiftFormer, with the two classifiers of its published weights, which were trained by distillation.

    Stem (two strided convolutions), stages with a strided convolution between them, a last batch norm, the mean over
    the grid, and two dense layers, whose mean is the result. If `distilled_training` is set, the model returns both
    results in training, as a tuple.

    Args:
        config: the configuration; see `SwiftFormerConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        SwiftFormer (arXiv 2303.15446); Amshaker/SwiftFormer at 4aa6cd6, `models/swiftformer.py`. The parameters carry
        timm's names. Stochastic depth also acts on the convolutional blocks, as in timm.

    Example:
        >>> model = SwiftFormer(VARIANTS["swiftformer_nano"].config, num_classes=10).eval()
        >>> model(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 10])
        >>> features, pyramid = model.forward_intermediates(torch.randn(1, 3, 32, 32))
        >>> print(*(tuple(stage.shape[1:]) for stage in pyramid))
        (32, 32, 32) (64, 16, 16) (128, 8, 8)
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stem_pattern = r"^stem"
    first_conv = "stem.0"
    has_batch_norms = True
    head_dist: nn.Module

    def __init__(self, config: SwiftFormerConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        self.distilled_training = False
        rates = drop_path_rates(config.drop_path_rate, config.depths)
        self.stem = _stem(in_chans, config.embed_dims[0], config.stem_strides)
        self.stages = nn.ModuleList(
            Stage(
                Downsample(config.embed_dims[stage - 1], dim) if stage else nn.Identity(),
                _blocks(config, dim, rates[stage]),
            )
            for stage, dim in enumerate(config.embed_dims)
        )
        self.norm = nn.BatchNorm2d(self.num_features)
        initialize(self, nn.Linear, nn.Conv2d)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: SwiftFormerConfig) -> list[dict[str, Any]]:
        """Return `feature_info` of the stages."""
        return pyramid("stages", config.embed_dims, config.stem_strides[0] * config.stem_strides[1])

    @staticmethod
    def name_classifiers(config: SwiftFormerConfig) -> tuple[str, ...]:
        """Return the names of both classifiers."""
        return ("head", "head_dist")

    def embed(self, x: Tensor) -> Tensor:
        """Run the stem."""
        return self.stem(x.contiguous(memory_format=torch.channels_last))

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the output of a stage, which is NCHW."""
        return x

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the mean of the two classifiers, or both in distilled training."""
        logits, distilled = self.head(x), self.head_dist(x)
        if self.distilled_training and self.training:
            return logits, distilled
        return (logits + distilled) / 2


class Downsample(nn.Module):
    """Downsampling: a strided 3x3 convolution, then a batch norm."""

    def __init__(self, dim: int, wider: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, wider, 3, 2, 1)
        self.norm = nn.BatchNorm2d(wider)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce `[B, C, H, W]` to half the height and width, rounded up."""
        return self.norm(self.proj(x))


class ConvBlock(nn.Module):
    """A depth-wise 3x3 convolution, a batch norm and two dense layers, with layer scale and residual."""

    def __init__(self, dim: int, hidden_dim: int, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.BatchNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, hidden_dim)
        self.pwconv2 = nn.Linear(hidden_dim, dim)
        self.layer_scale = LayerScale(dim, init=1.0)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        local = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # [B, H, W, C]
        local = self.layer_scale(mlp(self.pwconv1, self.pwconv2, local, activation=gelu))
        return x + self.drop_path(local.permute(0, 3, 1, 2))


class AttentionBlock(nn.Module):
    """Local representation, efficient additive attention without a norm before it, and an MLP."""

    def __init__(self, config: SwiftFormerConfig, dim: int, *, drop_path_rate: float) -> None:
        super().__init__()
        self.local_representation = ConvBlock(dim, dim)
        self.attn = EfficientAdditiveAttention(dim, dim, token_norm=config.token_norm)
        self.linear = BatchNormMlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale_1 = LayerScale(dim, config.layer_scale)
        self.layer_scale_2 = LayerScale(dim, config.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        x = self.local_representation(x).permute(0, 2, 3, 1)  # [B, H, W, C]
        x = x + self.drop_path(self.layer_scale_1(self.attn(x)))
        x = x + self.drop_path(self.layer_scale_2(self.linear(x)))
        return x.permute(0, 3, 1, 2)


class BatchNormMlp(nn.Module):
    """A batch norm and two dense layers, on `[B, H, W, C]`."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token."""
        x = self.norm1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mlp(self.fc1, self.fc2, x, activation=gelu)


def _stem(in_chans: int, dim: int, strides: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_chans, dim // 2, 3, strides[0], 1),
        nn.BatchNorm2d(dim // 2),
        nn.ReLU(),
        nn.Conv2d(dim // 2, dim, 3, strides[1], 1),
        nn.BatchNorm2d(dim),
        nn.ReLU(),
    )


def _blocks(config: SwiftFormerConfig, dim: int, rates: Sequence[float]) -> list[nn.Module]:
    *convolutional, last = rates
    return [
        *(ConvBlock(dim, int(dim * config.mlp_ratio), drop_path_rate=rate) for rate in convolutional),
        AttentionBlock(config, dim, drop_path_rate=last),
    ]
