"""The variants of CaiT."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig, check_patches
from regard.models.preprocessing import Preprocessing

URL = "https://dl.fbaipublicfiles.com/deit"


@dataclass(frozen=True)
class CaitConfig(ModelConfig):
    """Configuration of CaiT.

    Attributes:
        embed_dim: channels of the tokens.
        depth: number of blocks on the patches.
        num_heads: heads of each block.
        layer_scale: initial layer-scale value of attention and MLP.
        img_size: image side that the position embedding fits; for other sizes it is interpolated.
        patch_size: side of the patches in pixels.
        depth_token_only: number of blocks on the class token, after those on the patches.
        mlp_ratio: MLP width as a multiple of the block's channels.
        drop_path_rate: stochastic-depth rate of every block on the patches.
    """

    embed_dim: int = 192
    depth: int = 24
    num_heads: int = 4
    layer_scale: float = 1e-5
    img_size: int = 224
    patch_size: int = 16
    depth_token_only: int = 2
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patches(self.img_size, self.patch_size)


def _published(
    size: str, config: CaitConfig, parameters: int, gmacs: float, top1: tuple[float | None, float]
) -> Variant[CaitConfig]:
    """Return a variant; `size` is part of the file names, `top1` the accuracy of the authors' and timm's weights."""
    side = config.img_size
    weights = {
        "official": Weights(f"{URL}/{size.upper()}_{side}.pth", top1[0], Preprocessing(side)),
        "timm": Weights(f"hf://timm/cait_{size}_{side}.fb_dist_in1k", top1[1], Preprocessing(side)),
    }
    return Variant(config, parameters, gmacs, side, weights=weights)


_XXS24 = CaitConfig()
_XXS36 = replace(_XXS24, depth=36)
_XS24 = replace(_XXS24, embed_dim=288, num_heads=6)
_S24 = replace(_XXS24, embed_dim=384, num_heads=8)
_S36 = replace(_S24, depth=36, layer_scale=1e-6)
_M36 = replace(_S36, embed_dim=768, num_heads=16)
_M48 = replace(_M36, depth=48)

# gmacs are timm's, since the authors round their own to one decimal and leave some out
VARIANTS = {
    f"cait_{size}_{side}": _published(size, replace(config, img_size=side), parameters, gmacs, top1)
    for size, side, config, parameters, gmacs, top1 in (
        ("xxs24", 224, _XXS24, 11_956_264, 2.53, (None, 78.400)),
        ("xxs24", 384, _XXS24, 12_029_224, 9.63, (None, 80.954)),
        ("xxs36", 224, _XXS36, 17_299_720, 3.77, (None, 79.750)),
        ("xxs36", 384, _XXS36, 17_372_680, 14.35, (82.2, 82.204)),
        ("xs24", 384, _XS24, 26_670_088, 19.28, (84.1, 84.064)),
        ("s24", 224, _S24, 46_916_200, 9.35, (83.5, 83.484)),
        ("s24", 384, _S24, 47_062_120, 32.17, (85.1, 85.048)),
        ("s36", 384, _S36, 68_366_632, 47.99, (85.4, 85.458)),
        ("m36", 384, _M36, 271_221_352, 173.11, (86.1, 86.060)),
        ("m48", 448, _M48, 356_460_520, 329.41, (86.5, 86.480)),
    )
}
