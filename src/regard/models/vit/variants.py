"""The variants of ViT and DeiT."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig, check_patches
from regard.models.preprocessing import Preprocessing

URL = "https://dl.fbaipublicfiles.com/deit"
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class VitConfig(ModelConfig):
    """Configuration of ViT and DeiT.

    Attributes:
        embed_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: heads of each block.
        img_size: image side that the position embedding fits; for other sizes it is interpolated.
        patch_size: side of the patches in pixels.
        mlp_ratio: MLP width as a multiple of the block's channels.
        distilled: whether the model has a distillation token and a second classifier on it.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    img_size: int = 224
    patch_size: int = 16
    mlp_ratio: float = 4.0
    distilled: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patches(self.img_size, self.patch_size)


_BASE = VitConfig()
_SMALL = replace(_BASE, embed_dim=384, num_heads=6)
_TINY = replace(_BASE, embed_dim=192, num_heads=3)


def _vit(size: str, config: VitConfig, parameters: int, gmacs: float, top1: float) -> Variant[VitConfig]:
    timm = Weights(
        f"hf://timm/vit_{size}_patch16_224.augreg_in21k_ft_in1k",
        top1,
        Preprocessing(crop_pct=0.9, mean=HALF, std=HALF),
    )
    weights = {"timm": timm}
    if size == "base":  # the weights of the ViT paper, which has no smaller model
        squashed = Preprocessing(mean=HALF, std=HALF, interpolation="bilinear", crop_mode="squash")
        weights["hf"] = Weights("hf://google/vit-base-patch16-224", None, squashed)
    return Variant(config, parameters, gmacs, weights=weights)


def _deit(
    name: str, config: VitConfig, parameters: int, gmacs: float, digits: str, top1: tuple[float, float]
) -> Variant[VitConfig]:
    """Return a variant; `digits` end the name of the authors' file, `top1` holds the authors' accuracy and timm's."""
    side = config.img_size
    hub = f"hf://facebook/{name.replace('_', '-')}"
    weights = {
        "official": Weights(f"{URL}/{name}-{digits}.pth", top1[0], Preprocessing(side, crop_pct=0.875)),
        "timm": Weights(f"hf://timm/{name}.fb_in1k", top1[1], Preprocessing(side, 0.9 if side == 224 else 1.0)),
        "hf": Weights(hub, top1[0], Preprocessing(side, crop_pct=0.875, crop_mode="squash")),
    }
    config = replace(config, distilled="distilled" in name, drop_path_rate=0.1)
    return Variant(config, parameters, gmacs, side, weights=weights)


_AT_384 = replace(_BASE, img_size=384)

VARIANTS = {
    "vit_tiny_patch16_224": _vit("tiny", _TINY, 5_717_416, 1.26, 75.452),
    "vit_small_patch16_224": _vit("small", _SMALL, 22_050_664, 4.61, 81.402),
    "vit_base_patch16_224": _vit("base", _BASE, 86_567_656, 17.58, 84.534),
} | {
    name: _deit(name, config, parameters, gmacs, digits, top1)
    for name, config, parameters, gmacs, digits, top1 in (
        ("deit_tiny_patch16_224", _TINY, 5_717_416, 1.26, "a1311bcf", (72.2, 72.190)),
        ("deit_small_patch16_224", _SMALL, 22_050_664, 4.61, "cd65a155", (79.9, 79.856)),
        ("deit_base_patch16_224", _BASE, 86_567_656, 17.58, "b5f2ef4d", (81.8, 81.980)),
        ("deit_base_patch16_384", _AT_384, 86_859_496, 55.54, "8de9b5d1", (82.9, 83.108)),
        ("deit_tiny_distilled_patch16_224", _TINY, 5_910_800, 1.27, "b40b3cf7", (74.5, 74.538)),
        ("deit_small_distilled_patch16_224", _SMALL, 22_436_432, 4.63, "649709d9", (81.2, 81.204)),
        ("deit_base_distilled_patch16_224", _BASE, 87_338_192, 17.68, "df68dfff", (83.4, 83.384)),
        ("deit_base_distilled_patch16_384", _AT_384, 87_630_032, 55.65, "d0272ac0", (85.2, 85.438)),
    )
}
