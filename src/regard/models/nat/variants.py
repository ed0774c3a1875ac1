"""The variants of NAT and DiNAT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig, check_stem_dim
from regard.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class NatConfig(ModelConfig):
    """Configuration of NAT and DiNAT.

    Attributes:
        embed_dim: channels of the first level; each further level has twice as many.
        depths: blocks per level.
        num_heads: heads per level.
        kernel_size: side of the window of keys.
        dilations: dilation of every second block, per level; the other blocks have none.
        mlp_ratio: MLP width as a multiple of the block's channels.
        layer_scale: initial layer-scale value; None disables it.
        stem_strides: strides of the two convolutions of the stem.
        small_grid: "pad" pads grids smaller than a window, as the published weights expect; "error" raises.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    embed_dim: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 5)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    kernel_size: int = 7
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    mlp_ratio: float = 3.0
    layer_scale: float | None = None
    stem_strides: tuple[int, int] = (2, 2)
    small_grid: Literal["error", "pad"] = "pad"
    drop_path_rate: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stem_dim("embed_dim", self.embed_dim)


_MINI = NatConfig()
_TINY = replace(_MINI, depths=(3, 4, 18, 5))
_SMALL = replace(_TINY, embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2.0, drop_path_rate=0.3)
_BASE = replace(_SMALL, embed_dim=128, num_heads=(4, 8, 16, 32), layer_scale=1e-5, drop_path_rate=0.5)
_DILATIONS = (8, 4, 2, 1)  # a window of 7 dilated keys spans the grid of a 224-pixel image
_LARGE = replace(_SMALL, embed_dim=192, num_heads=(6, 12, 24, 48), dilations=_DILATIONS, drop_path_rate=0.35)


def _weights(path: str, hf: str | None = None, *, top1: float | None, image_size: int = 224) -> dict[str, Weights]:
    preprocessing = Preprocessing(image_size, crop_pct=0.875 if image_size == 224 else 1.0)
    sources = {"official": f"https://shi-labs.com/projects/{path}.pth"}
    sources |= {} if hf is None else {"hf": f"hf://shi-labs/{hf}"}
    return {word: Weights(source, top1, preprocessing, "mit") for word, source in sources.items()}


def _nat(size: str, config: NatConfig, parameters: int, gmacs: float, top1: float) -> Variant[NatConfig]:
    weights = _weights(f"nat/checkpoints/CLS/nat_{size}", f"nat-{size}-in1k-224", top1=top1)
    return Variant(config, parameters, gmacs, weights=weights)


def _dinat(size: str, config: NatConfig, parameters: int, gmacs: float, top1: float) -> Variant[NatConfig]:
    path = f"dinat/checkpoints/imagenet1k/dinat_{size}_in1k_224"
    return Variant(config, parameters, gmacs, weights=_weights(path, f"dinat-{size}-in1k-224", top1=top1))


def _large(
    config: NatConfig, gmacs: float, top1: float, tag: str, image_size: int, hf: str | None
) -> Variant[NatConfig]:
    """Return a variant whose weights were trained on ImageNet-22k, then on ImageNet-1k."""
    path = f"dinat/checkpoints/imagenet1k/dinat_large_in22k_in1k_{tag}"
    weights = _weights(path, hf, top1=top1, image_size=image_size)
    parameters = 201_144_250 if config.kernel_size == 11 else 200_943_514
    return Variant(config, parameters, gmacs, image_size, weights=weights)


def _large_22k(config: NatConfig, parameters: int, gmacs: float, tag: str) -> Variant[NatConfig]:
    path = f"dinat/checkpoints/imagenet22k/dinat_large_in22k_{tag}"
    return Variant(config, parameters, gmacs, num_classes=21841, weights=_weights(path, top1=None))


VARIANTS = {
    "nat_nano": Variant(
        NatConfig(
            embed_dim=32,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            kernel_size=3,
            dilations=(1, 1, 1),
            mlp_ratio=2.0,
            stem_strides=(1, 1),
            drop_path_rate=0.1,
        ),
        parameters=576_644,
        gmacs=0.005,
        image_size=8,
    ),
    "nat_mini": _nat("mini", _MINI, 19_984_174, 2.7, 81.8),
    "nat_tiny": _nat("tiny", _TINY, 27_901_582, 4.3, 83.2),
    "nat_small": _nat("small", replace(_SMALL, layer_scale=1e-5), 50_743_297, 7.8, 83.7),
    "nat_base": _nat("base", _BASE, 89_769_652, 13.7, 84.3),
    "dinat_mini": _dinat("mini", replace(_MINI, dilations=_DILATIONS), 19_984_174, 2.7, 81.8),
    "dinat_tiny": _dinat("tiny", replace(_TINY, dilations=_DILATIONS), 27_901_582, 4.3, 82.7),
    "dinat_small": _dinat("small", replace(_SMALL, dilations=_DILATIONS), 50_719_681, 7.8, 83.8),
    "dinat_base": _dinat("base", replace(_BASE, dilations=_DILATIONS), 89_769_652, 13.7, 84.4),
    "dinat_large": _large(_LARGE, 30.6, 86.6, "224", 224, "dinat-large-in22k-in1k-224"),
    "dinat_large_384": _large(
        replace(_LARGE, dilations=(13, 6, 3, 1)), 89.7, 87.4, "384", 384, "dinat-large-in22k-in1k-384"
    ),
    "dinat_large_384_11x11": _large(replace(_LARGE, kernel_size=11), 92.4, 87.5, "384_11x11", 384, None),
    "dinat_large_21k": _large_22k(replace(_LARGE, drop_path_rate=0.2), 232_976_131, 30.6, "224"),
    "dinat_large_21k_11x11": _large_22k(
        replace(_LARGE, kernel_size=11, drop_path_rate=0.2), 233_176_867, 41.1, "224_11x11interp"
    ),
}
