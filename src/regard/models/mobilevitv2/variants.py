"""The variants of MobileViTv2."""

from __future__ import annotations

from dataclasses import dataclass

from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig, check_positive
from regard.models.preprocessing import Preprocessing

URL = "https://docs-assets.developer.apple.com/ml-research/models/cvnets-v2/classification/mobilevitv2"
LICENSE = "cvnets-license"


@dataclass(frozen=True)
class MobileVitV2Config(ModelConfig):
    """Configuration of MobileViTv2.

    Attributes:
        width: factor of all channels.
        depths: attention units of each of the last three stages.
        mlp_ratio: MLP width as a multiple of the attention unit's channels.
        expand_ratio: hidden channels of an inverted residual as a multiple of its input's.
        patch_size: side of the patches in tokens; tokens attend to those at the same place of every patch. A grid that
            patches do not fill is enlarged.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    width: float = 1.0
    depths: tuple[int, int, int] = (2, 4, 3)
    mlp_ratio: float = 2.0
    expand_ratio: float = 2.0
    patch_size: int = 2
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("width", self.width)

    @property
    def stem_dim(self) -> int:
        """Channels of the stem."""
        return max(16, round_channels(min(32 * self.width, 64), 8))

    @property
    def embed_dims(self) -> tuple[int, ...]:
        """Channels of the five stages."""
        first, *others = (channels * self.width for channels in (64, 128, 256, 384, 512))
        return round_channels(first, 16), *(round_channels(channels, 8) for channels in others)

    @property
    def attention_dims(self) -> tuple[int, ...]:
        """Channels of the attention units of the last three stages."""
        return tuple(round_channels(channels * self.width, 8) for channels in (128, 192, 256))


def round_channels(channels: float, divisor: int) -> int:
    """Round to the nearest multiple of the divisor, or up where rounding down would lose more than a tenth.

    Example:
        >>> round_channels(35, 16), round_channels(37, 16)
        (32, 48)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def _variant(
    width: float,
    parameters: int,
    gmacs: float,
    *,
    official: tuple[float, float],
    timm: float,
    in22k: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Variant[MobileVitV2Config]:
    """Describe the weights: trained on ImageNet-1k and, for the wide ones, on ImageNet-22k before it.

    Args:
        width: factor of all channels.
        parameters: their number.
        gmacs: as published.
        official: top-1 of the authors at 256 and 384 pixels.
        timm: top-1 of timm at 256 pixels.
        in22k: top-1 of the authors and of timm after ImageNet-22k, at 256 pixels and at 384.
    """
    hub = f"hf://timm/mobilevitv2_{round(100 * width):03}.cvnets"
    found = {
        "official": _weights(f"{URL}/imagenet1k/256x256/mobilevitv2-{width}.pt", official[0], 256),
        "official_384": _weights(f"{URL}/imagenet1k/384x384/mobilevitv2-{width}.pt", official[1], 384),
        "timm": _weights(f"{hub}_in1k", timm, 256),
        "hf": _weights(f"hf://apple/mobilevitv2-{width}-imagenet1k-256", None, 256),
    }
    if in22k is not None:
        for size, end, of_authors, of_timm in ((256, "", *in22k[0]), (384, "_384", *in22k[1])):
            source = f"{URL}/imagenet21k_to_1k/{size}x{size}/mobilevitv2-{width}.pt"
            found[f"official_in22k{end}"] = _weights(source, of_authors, size)
            found[f"timm_in22k{end}"] = _weights(f"{hub}_in22k_ft_in1k{end}", of_timm, size)
    return Variant(MobileVitV2Config(width), parameters, gmacs, 256, weights=found)


def _weights(source: str, top1: float | None, size: int) -> Weights:
    """Describe one file. Apple's evaluation: RGB between 0 and 1, the middle 256 of 288 pixels, or all of 384."""
    crop_pct = 256 / 288 if size == 256 else 1.0
    preprocessing = Preprocessing(size, crop_pct, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Weights(source, top1, preprocessing, LICENSE)


VARIANTS = {
    "mobilevitv2_050": _variant(0.5, 1_370_593, 0.48, official=(70.18, 72.14), timm=70.156),
    "mobilevitv2_075": _variant(0.75, 2_866_009, 1.05, official=(75.56, 76.98), timm=75.612),
    "mobilevitv2_100": _variant(1.0, 4_901_841, 1.84, official=(78.09, 79.68), timm=78.088),
    "mobilevitv2_125": _variant(1.25, 7_478_089, 2.86, official=(79.65, 80.94), timm=79.682),
    "mobilevitv2_150": _variant(
        1.5,
        10_594_753,
        4.09,
        official=(80.38, 81.50),
        timm=80.380,
        in22k=((81.46, 81.466), (82.60, 82.606)),
    ),
    "mobilevitv2_175": _variant(
        1.75,
        14_251_833,
        5.54,
        official=(80.84, 82.04),
        timm=80.870,
        in22k=((81.94, 81.950), (82.93, 82.920)),
    ),
    "mobilevitv2_200": _variant(
        2.0,
        18_449_329,
        7.22,
        official=(81.17, 82.17),
        timm=81.148,
        in22k=((82.36, 82.320), (83.41, 83.430)),
    ),
}
