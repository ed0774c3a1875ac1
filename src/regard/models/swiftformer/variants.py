"""The variants of SwiftFormer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig, check_stem_dim
from regard.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class SwiftFormerConfig(ModelConfig):
    """Configuration of SwiftFormer.

    Attributes:
        embed_dims: channels per stage.
        depths: blocks per stage; the last block of each has the attention.
        mlp_ratio: MLP width as a multiple of the block's channels.
        token_norm: normalization of the attention's token scores: "l2" for the authors' weights since July 2023, "ones"
            for the earlier ones, which the Hugging Face hub holds. Names and shapes are the same.
        layer_scale: initial layer-scale value of attention and MLP.
        stem_strides: strides of the two convolutions of the stem.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratio: float = 4.0
    token_norm: Literal["l2", "ones", "softmax"] = "l2"
    layer_scale: float = 1e-5
    stem_strides: tuple[int, int] = (2, 2)
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stem_dim("embed_dims", self.embed_dims[0])


def _published(
    name: str, config: SwiftFormerConfig, parameters: int, gmacs: float, drive: str, top1: tuple[float, float]
) -> Variant[SwiftFormerConfig]:
    official = Weights(f"drive://{drive}", top1[0], Preprocessing(crop_pct=0.875))
    timm = Weights(f"hf://timm/swiftformer_{name}.dist_in1k", top1[1], Preprocessing(crop_pct=0.95))
    hf = Weights(f"hf://MBZUAI/swiftformer-{name}", None, Preprocessing(interpolation="bilinear", crop_mode="squash"))
    return Variant(config, parameters, gmacs, weights={"official": official, "timm": timm, "hf": hf})


VARIANTS = {
    "swiftformer_nano": Variant(
        SwiftFormerConfig((32, 64, 128), (2, 2, 2), stem_strides=(1, 1), layer_scale=1.0),
        parameters=839_792,
        gmacs=0.006,
        image_size=8,
    ),
    "swiftformer_xs": _published(
        "xs",
        SwiftFormerConfig((48, 56, 112, 220), (3, 3, 6, 4)),
        3_475_360,
        0.6,
        "12RchxzyiJrtZS-2Bur9k4wcRQMItA43S",
        (75.7, 75.6),
    ),
    "swiftformer_s": _published(
        "s",
        SwiftFormerConfig((48, 64, 168, 224), (3, 3, 9, 6)),
        6_092_128,
        0.99,
        "1awpcXAaHH38WaHrOmUM8updxQazUZ3Nb",
        (78.5, 78.462),
    ),
    "swiftformer_l1": _published(
        "l1",
        SwiftFormerConfig((48, 96, 192, 384), (4, 3, 10, 5)),
        12_057_920,
        1.60,
        "1SDzauVmpR5uExkOv3ajxdwFnP-Buj9Uo",
        (80.9, 80.906),
    ),
    "swiftformer_l3": _published(
        "l3",
        SwiftFormerConfig((64, 128, 320, 512), (4, 4, 12, 6)),
        28_494_736,
        4.01,
        "1DAxMe6FlnZBBIpR-HYIDfFLWJzIgiF0Y",
        (83.0, 82.994),
    ),
}
