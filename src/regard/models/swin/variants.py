"""The variants of Swin."""

from __future__ import annotations

from dataclasses import dataclass, replace

from regard.errors import ShapeError
from regard.models._variant import Variant, Weights
from regard.models.fields import ModelConfig
from regard.models.preprocessing import Preprocessing

URL = "https://github.com/SwinTransformer/storage/releases/download"


@dataclass(frozen=True)
class PyramidConfig(ModelConfig):
    """Configuration that Swin and DiNAT_s share.

    Attributes:
        embed_dim: channels of the first stage; each further stage has twice as many.
        depths: blocks per stage.
        num_heads: heads per stage.
        patch_size: side of the patches in pixels.
        mlp_ratio: MLP width as a multiple of the block's channels.
        drop_path_rate: stochastic-depth rate of the last block; rates rise linearly from 0.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    patch_size: int = 4
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.2

    @property
    def dims(self) -> list[int]:
        """Channels of every stage."""
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]


@dataclass(frozen=True)
class SwinConfig(PyramidConfig):
    """Configuration of Swin; see `PyramidConfig` for the other fields.

    Attributes:
        window_size: side of a window in tokens.
        img_size: image side that windows and shifts are chosen for; other sizes work, too.
    """

    window_size: int = 7
    img_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = self.patch_size * 2 ** (len(self.depths) - 1)
        if self.img_size < smallest:
            raise ShapeError(f"img_size must be at least {smallest} for {len(self.depths)} stages, got {self.img_size}")

    def window(self, stage: int, block: int) -> tuple[int, int]:
        """Return window and shift of a block: a window no larger than the grid, and no shift of a single window."""
        grid = self.img_size // self.patch_size // 2**stage
        if grid <= self.window_size:
            return grid, 0
        return self.window_size, self.window_size // 2 if block % 2 else 0


_TINY = SwinConfig()
_SMALL = replace(_TINY, depths=(2, 2, 18, 2), drop_path_rate=0.3)
_BASE = replace(_SMALL, embed_dim=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.5)
_LARGE = replace(_BASE, embed_dim=192, num_heads=(6, 12, 24, 48), drop_path_rate=0.2)


def _swin(
    size: str,
    config: SwinConfig,
    parameters: int,
    gmacs: float,
    *,
    in1k: tuple[float, float] | None,
    in22k: tuple[str, float, float],
) -> Variant[SwinConfig]:
    """Return a variant with its weights: of ImageNet-1k, if published, and of ImageNet-22k followed by ImageNet-1k.

    Args:
        size: "tiny" to "large".
        config: its configuration.
        parameters: number of parameters.
        gmacs: the published figure.
        in1k: top-1 accuracy of the authors' and of timm's weights.
        in22k: release and end of the name of the authors' file, top-1 accuracy of the authors' and of timm's weights.
    """
    window = "384" if config.img_size == 384 else "224"
    name = f"swin_{size}_patch4_window{config.window_size}_{window}"
    squashed = Preprocessing(384, crop_mode="squash")
    official = Preprocessing(224, crop_pct=0.875) if config.img_size == 224 else squashed
    timm = Preprocessing(config.img_size, crop_pct=0.9 if config.img_size == 224 else 1.0)
    hub = f"hf://microsoft/{name.replace('_', '-')}"

    def weights(word: str, file: str, tag: str, top1: tuple[float, float]) -> dict[str, Weights]:
        return {
            f"official{word}": Weights(f"{URL}/{file}.pth", top1[0], official, "mit"),
            f"timm{word}": Weights(f"hf://timm/{name}.{tag}", top1[1], timm, "mit"),
        }

    release, *tops = in22k
    both = weights("_in22k", release.replace("NAME", name), "ms_in22k_ft_in1k", (tops[0], tops[1]))
    if in1k is None:
        both = {word.removesuffix("_in22k"): each for word, each in both.items()}
    else:
        both = weights("", f"v1.0.0/{name}", "ms_in1k", in1k) | both
    hf = Weights(hub, (in1k or tops)[0], Preprocessing(config.img_size, crop_mode="squash"))
    return Variant(config, parameters, gmacs, config.img_size, weights=both | {"hf": hf})


_FINETUNED = "v1.0.8/NAME_22kto1k_finetune"
_CONVERTED = "v1.0.0/NAME_22kto1k"

VARIANTS = {
    "swin_tiny_patch4_window7_224": _swin(
        "tiny", _TINY, 28_288_354, 4.5, in1k=(81.2, 81.388), in22k=(_FINETUNED, 80.9, 80.966)
    ),
    "swin_small_patch4_window7_224": _swin(
        "small", _SMALL, 49_606_258, 8.7, in1k=(83.2, 83.228), in22k=(_FINETUNED, 83.2, 83.330)
    ),
    "swin_base_patch4_window7_224": _swin(
        "base", _BASE, 87_768_224, 15.4, in1k=(83.5, 83.604), in22k=(_CONVERTED, 85.2, 85.276)
    ),
    "swin_base_patch4_window12_384": _swin(
        "base",
        replace(_BASE, window_size=12, img_size=384),
        87_903_584,
        47.1,
        in1k=(84.5, 84.478),
        in22k=(_CONVERTED, 86.4, 86.442),
    ),
    "swin_large_patch4_window7_224": _swin(
        "large", _LARGE, 196_532_476, 34.5, in1k=None, in22k=(_CONVERTED, 86.3, 86.320)
    ),
    "swin_large_patch4_window12_384": _swin(
        "large",
        replace(_LARGE, window_size=12, img_size=384),
        196_735_516,
        103.9,
        in1k=None,
        in22k=(_CONVERTED, 87.3, 87.142),
    ),
}
