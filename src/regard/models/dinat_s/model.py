"""DiNAT_s: Swin with neighborhood attention in place of window attention, dilated in every second block."""

from __future__ import annotations

from torch import nn

from regard.attention import NeighborhoodAttention2d
from regard.checkpoint import Naming
from regard.models.dinat_s.variants import VARIANTS, DinatSConfig
from regard.models.swin.checkpoint import OFFICIAL
from regard.models.swin.model import SwinPyramid


class DinatS(SwinPyramid[DinatSConfig]):
    """DiNAT_s: Swin's patches, stages and merging, with the attention of DiNAT.

    Args:
        config: the configuration; see `DinatSConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        DiNAT (arXiv 2209.15001); SHI-Labs/Neighborhood-Attention-Transformer at d334f5b, `classification/dinats.py`.

    Example:
        >>> import torch
        >>> config = DinatSConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), kernel_size=3, dilations=(2, 1))
        >>> DinatS(config, num_classes=10).eval()(torch.randn(1, 3, 56, 56)).shape
        torch.Size([1, 10])
    """

    variants = VARIANTS

    @staticmethod
    def name_tensors(config: DinatSConfig) -> tuple[Naming, ...]:
        """Return the authors' naming; no other library has this family."""
        return (Naming("official", OFFICIAL),)

    @staticmethod
    def attention(config: DinatSConfig, stage: int, block: int) -> nn.Module:
        """Return the neighborhood attention of one block."""
        return NeighborhoodAttention2d(
            config.dims[stage],
            config.num_heads[stage],
            config.kernel_size,
            dilation=config.dilations[stage] if block % 2 else 1,
            small_grid="pad",
        )
