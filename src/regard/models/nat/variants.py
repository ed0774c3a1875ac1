"""The variants of NAT and DiNAT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from regard.models._backbone import check_fields, check_numbers, check_rate, check_ratio, check_width


@dataclass(frozen=True)
class NatConfig:
    """What makes a NAT or a DiNAT.

    Attributes:
        embed_dim: channels of the first level; each further one has twice as many.
        depths: blocks per level.
        num_heads: heads per level.
        kernel_size: keys per axis.
        dilations: per level, the dilation of every second block; the blocks before them have none.
        mlp_ratio: hidden channels of the MLPs, relative to theirs.
        layer_scale: what the learned factors on the residual branches start with; None for no such factors.
        stem_strides: strides of the two convolutions that cut the image into tokens.
        small_grid: what to do on grids smaller than a window: pad them, as the published weights expect, or raise.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
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
        check_fields(self)
        check_numbers(self, "depths", "num_heads", "dilations")
        check_numbers(self, "stem_strides", count=2)
        check_width("embed_dim", self.embed_dim)
        check_ratio("mlp_ratio", self.mlp_ratio)
        check_rate("drop_path_rate", self.drop_path_rate)


_MINI = NatConfig()
_TINY = replace(_MINI, depths=(3, 4, 18, 5))
_SMALL = replace(_TINY, embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2.0, drop_path_rate=0.3)
_BASE = replace(_SMALL, embed_dim=128, num_heads=(4, 8, 16, 32), layer_scale=1e-5, drop_path_rate=0.5)
_DILATIONS = (8, 4, 2, 1)  # times 7 keys: exactly the grids of a 224-pixel image
_LARGE = replace(_SMALL, embed_dim=192, num_heads=(6, 12, 24, 48), dilations=_DILATIONS, drop_path_rate=0.35)

VARIANTS = {
    "nat_nano": NatConfig(
        embed_dim=32,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        kernel_size=3,
        dilations=(1, 1, 1),
        mlp_ratio=2.0,
        stem_strides=(1, 1),
        drop_path_rate=0.1,
    ),
    "nat_mini": _MINI,
    "nat_tiny": _TINY,
    "nat_small": replace(_SMALL, layer_scale=1e-5),
    "nat_base": _BASE,
    "dinat_mini": replace(_MINI, dilations=_DILATIONS),
    "dinat_tiny": replace(_TINY, dilations=_DILATIONS),
    "dinat_small": replace(_SMALL, dilations=_DILATIONS),
    "dinat_base": replace(_BASE, dilations=_DILATIONS),
    "dinat_large": _LARGE,
    "dinat_large_384": replace(_LARGE, dilations=(13, 6, 3, 1)),
    "dinat_large_384_11x11": replace(_LARGE, kernel_size=11),
    "dinat_large_21k": replace(_LARGE, drop_path_rate=0.2),
    "dinat_large_21k_11x11": replace(_LARGE, kernel_size=11, drop_path_rate=0.2),
}
