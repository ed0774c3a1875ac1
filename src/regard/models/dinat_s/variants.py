"""The variants of DiNAT_s."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regard.models._variant import Variant, Weights
from regard.models.preprocessing import Preprocessing
from regard.models.swin.variants import PyramidConfig


@dataclass(frozen=True)
class DinatSConfig(PyramidConfig):
    """Configuration of DiNAT_s; see `PyramidConfig` for the other fields.

    Attributes:
        kernel_size: side of the window of keys.
        dilations: dilation of every second block, per stage; the other blocks have none.
    """

    kernel_size: int = 7
    dilations: tuple[int, ...] = (8, 4, 2, 1)


_TINY = DinatSConfig()
_SMALL = replace(_TINY, depths=(2, 2, 18, 2), drop_path_rate=0.3)
_BASE = replace(_SMALL, embed_dim=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.5)
_LARGE = replace(_SMALL, embed_dim=192, num_heads=(6, 12, 24, 48), drop_path_rate=0.35)


def _dinat_s(
    tag: str, config: DinatSConfig, parameters: int, gmacs: float, top1: float, image_size: int = 224
) -> Variant[DinatSConfig]:
    source = f"https://shi-labs.com/projects/dinat/checkpoints/imagenet1k/dinat_s_{tag}.pth"
    preprocessing = Preprocessing(image_size, crop_pct=0.875 if image_size == 224 else 1.0)
    return Variant(
        config, parameters, gmacs, image_size, weights={"official": Weights(source, top1, preprocessing, "mit")}
    )


VARIANTS = {
    "dinat_s_tiny": _dinat_s("tiny_in1k_224", _TINY, 28_288_354, 4.5, 81.8),
    "dinat_s_small": _dinat_s("small_in1k_224", _SMALL, 49_606_258, 8.7, 83.5),
    "dinat_s_base": _dinat_s("base_in1k_224", _BASE, 87_768_224, 15.4, 83.8),
    "dinat_s_large": _dinat_s("large_in1k_224", _LARGE, 196_532_476, 34.5, 86.5),
    "dinat_s_large_384": _dinat_s(
        "large_in1k_384", replace(_LARGE, dilations=(13, 6, 3, 1)), 196_532_476, 101.5, 87.4, 384
    ),
}
