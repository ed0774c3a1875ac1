"""The variants of SwiftFormer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.models._backbone import check_fields, check_numbers, check_rate, check_ratio, check_width


@dataclass(frozen=True)
class SwiftFormerConfig:
    """What makes a SwiftFormer.

    Attributes:
        embed_dims: channels per stage.
        depths: blocks per stage; the last one of each has the attention.
        mlp_ratio: hidden channels, relative to a block's.
        token_norm: normaliser of the attention's token scores: "l2" for the weights published since July 2023, "ones"
            for those before, which others still carry; names and shapes do not tell them apart.
        layer_scale: what the learned factors on attention and MLP start with.
        stem_strides: strides of the stem's two convolutions.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratio: float = 4.0
    token_norm: Literal["l2", "ones", "softmax"] = "l2"
    layer_scale: float = 1e-5
    stem_strides: tuple[int, int] = (2, 2)
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, "embed_dims", "depths")
        check_numbers(self, "stem_strides", count=2)
        check_width("embed_dims", self.embed_dims[0])
        check_ratio("mlp_ratio", self.mlp_ratio)
        check_rate("drop_path_rate", self.drop_path_rate)


VARIANTS = {
    "swiftformer_nano": SwiftFormerConfig((32, 64, 128), (2, 2, 2), stem_strides=(1, 1), layer_scale=1.0),
    "swiftformer_xs": SwiftFormerConfig((48, 56, 112, 220), (3, 3, 6, 4)),
    "swiftformer_s": SwiftFormerConfig((48, 64, 168, 224), (3, 3, 9, 6)),
    "swiftformer_l1": SwiftFormerConfig((48, 96, 192, 384), (4, 3, 10, 5)),
    "swiftformer_l3": SwiftFormerConfig((64, 128, 320, 512), (4, 4, 12, 6)),
}
