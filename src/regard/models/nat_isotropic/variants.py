"""The variants of the isotropic NAT, DiNAT and ViT with relative positional biases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig
from regard.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class NatIsotropicConfig(ModelConfig):
    """Configuration of the isotropic NAT, DiNAT and ViT with relative positional biases.

    Attributes:
        embed_dim: channels.
        depth: number of blocks.
        num_heads: heads of each block.
        kernel_size: side of the window of keys; the side of the grid gives full attention.
        dilation: dilation of every second block; the other blocks have none.
        patch_size: side of the patches in pixels.
        img_size: side of the images that the published weights were trained on; other sizes work, too.
        mlp_ratio: MLP width as a multiple of the block's channels.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 12
    kernel_size: int = 7
    dilation: int = 1
    patch_size: int = 16
    img_size: int = 224
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.1

    @property
    def sees_all(self) -> bool:
        """Whether the window covers the grid of the published image size."""
        return self.kernel_size * self.patch_size >= self.img_size


_SMALL = NatIsotropicConfig()
_BASE = replace(_SMALL, embed_dim=768, num_heads=24, drop_path_rate=0.4)


def _isotropic(
    tag: str, config: NatIsotropicConfig, parameters: int, gmacs: float, top1: float
) -> Variant[NatIsotropicConfig]:
    source = f"https://shi-labs.com/projects/dinat/checkpoints/isotropic/{tag}_in1k_224.pth"
    weights = Weights(source, top1, Preprocessing(224, crop_pct=0.875), "mit")
    return Variant(config, parameters, gmacs, weights={"official": weights})


VARIANTS = {
    "nat_isotropic_small": _isotropic("nat_isotropic_small", _SMALL, 21_999_736, 4.3, 80.0),
    "nat_isotropic_base": _isotropic("nat_isotropic_base", _BASE, 86_465_800, 16.9, 81.6),
    "dinat_isotropic_small": _isotropic("dinat_isotropic_small", replace(_SMALL, dilation=2), 21_999_736, 4.3, 80.8),
    "dinat_isotropic_base": _isotropic("dinat_isotropic_base", replace(_BASE, dilation=2), 86_465_800, 16.9, 82.1),
    "vitrpb_small": _isotropic("vitrpb_small", replace(_SMALL, kernel_size=14), 22_080_376, 4.6, 81.2),
    "vitrpb_base": _isotropic("vitrpb_base", replace(_BASE, kernel_size=14), 86_627_080, 17.5, 82.5),
}
