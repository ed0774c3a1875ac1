"""NAT, DiNAT and ViT of one resolution, which the authors compare."""

from __future__ import annotations

from typing import Any

from torch import nn

from regard.attention import NeighborhoodAttention2d
from regard.layers import Blocks, PatchEmbed, TransformerBlock, drop_path_rates
from regard.models._backbone import Backbone, column, initialize
from regard.models.nat_isotropic.checkpoint import name_tensors
from regard.models.nat_isotropic.variants import VARIANTS, NatIsotropicConfig


class NatIsotropic(Backbone[NatIsotropicConfig]):
    """Transformer blocks of one resolution with neighborhood attention, dilated in every second block of DiNAT.

    Patches of 16 x 16 pixels, a layer norm, twelve blocks, a last layer norm, the mean over the grid, one dense layer.
    The relative bias is the only position information, and there is no class token. A window as large as the grid gives
    full attention: this is the authors' ViT with relative positional biases.

    Args:
        config: the configuration; see `NatIsotropicConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        DiNAT (arXiv 2209.15001, section 4.4); SHI-Labs/Neighborhood-Attention-Transformer at d334f5b,
        `classification/isotropic.py`.

    Example:
        >>> import torch
        >>> config = NatIsotropicConfig(embed_dim=32, depth=2, num_heads=2, kernel_size=3)
        >>> NatIsotropic(config, num_classes=10).eval()(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stage_list = "layers"
    block_pattern = r"^layers\.(\d+)"

    def __init__(self, config: NatIsotropicConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(in_chans, dim, config.patch_size, norm=True)
        (rates,) = drop_path_rates(config.drop_path_rate, [config.depth])
        self.layers = Blocks(
            *(
                TransformerBlock(
                    dim,
                    NeighborhoodAttention2d(
                        dim,
                        config.num_heads,
                        config.kernel_size,
                        dilation=config.dilation if index % 2 else 1,
                        small_grid="pad",
                    ),
                    mlp_ratio=config.mlp_ratio,
                    drop_path_rate=rate,
                )
                for index, rate in enumerate(rates)
            )
        )
        self.norm = nn.LayerNorm(dim)
        initialize(self, nn.Linear)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: NatIsotropicConfig) -> list[dict[str, Any]]:
        """Return `feature_info` of the blocks."""
        return column("layers", config.depth, config.embed_dim, config.patch_size)
