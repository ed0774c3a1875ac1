"""Swin Transformer: a pyramid of transformer blocks with window attention, shifted in every second block."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from regard.attention import WindowAttention
from regard.layers import (
    PatchEmbed,
    PatchMerging,
    Stage,
    TransformerBlock,
    drop_path_rates,
    interpolate_bias,
)
from regard.models._backbone import Backbone, initialize, pyramid
from regard.models.swin.checkpoint import name_tensors
from regard.models.swin.variants import VARIANTS, PyramidConfig, SwinConfig

PyramidConfigT = TypeVar("PyramidConfigT", bound=PyramidConfig)


class SwinPyramid(Backbone[PyramidConfigT]):
    """Base class of Swin and DiNAT_s, which differ in their attention.

    Patches, a layer norm, stages of blocks with patch merging between them, a last layer norm, the mean over the grid,
    one dense layer. A family implements `attention`.
    """

    stage_list = "layers"
    block_pattern = r"^layers\.(\d+)\.blocks\.(\d+)"

    def __init__(self, config: PyramidConfigT, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        rates = drop_path_rates(config.drop_path_rate, config.depths)
        self.patch_embed = PatchEmbed(in_chans, config.embed_dim, config.patch_size, norm=True)
        self.layers = nn.ModuleList(
            Stage(
                PatchMerging(dim // 2) if stage else nn.Identity(),
                (
                    TransformerBlock(
                        dim,
                        self.attention(config, stage, block),
                        mlp_ratio=config.mlp_ratio,
                        drop_path_rate=rate,
                    )
                    for block, rate in enumerate(rates[stage])
                ),
            )
            for stage, dim in enumerate(config.dims)
        )
        self.norm = nn.LayerNorm(self.num_features)
        initialize(self, nn.Linear)
        self.reset_classifier(num_classes)

    @staticmethod
    def attention(config: PyramidConfigT, stage: int, block: int) -> nn.Module:
        """Return the attention of one block, on `[B, H, W, C]`."""
        raise NotImplementedError

    @staticmethod
    def describe_features(config: PyramidConfigT) -> list[dict[str, Any]]:
        """Return `feature_info` of the stages."""
        return pyramid("layers", config.dims, config.patch_size)

    def embed(self, x: Tensor) -> Tensor:
        """Pad images to whole patches and cut them into tokens, `[B, H, W, C]`."""
        height, width = x.shape[2:]
        size = self.config.patch_size
        if isinstance(height, torch.SymInt) or height % size or width % size:  # a dynamic size may need padding
            x = pad(x, (0, -width % size, 0, -height % size))
        return self.patch_embed(x)


class Swin(SwinPyramid[SwinConfig]):
    """Swin Transformer, version 1.

    Patches of 4 x 4 pixels, a layer norm, stages of blocks with patch merging between them, a last layer norm, the mean
    over the grid, one dense layer. Images may have any size: incomplete patches, pairs of tokens and windows are padded
    with zeros on the right and at the bottom.

    Args:
        config: the configuration; see `SwinConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together.

    Source:
        Swin Transformer (arXiv 2103.14030); microsoft/Swin-Transformer at f82860b, `models/swin_transformer.py`;
        padding as in its detection code and in Hugging Face transformers. The parameters carry timm's names but for
        `head`.

    Example:
        >>> import torch
        >>> model = Swin(SwinConfig(embed_dim=16, depths=(1, 1), num_heads=(1, 2)), num_classes=10).eval()
        >>> model(torch.randn(1, 3, 56, 56)).shape
        torch.Size([1, 10])
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)

    @staticmethod
    def attention(config: SwinConfig, stage: int, block: int) -> nn.Module:
        """Return the window attention of one block.

        The window is no larger than the stage's grid at the configured image size, and a grid of one window is not
        shifted.
        """
        window, shift = config.window(stage, block)
        return WindowAttention(config.dims[stage], config.num_heads[stage], window, shift_size=shift, small_grid="pad")

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Interpolate bias tables of another window."""
        if not name.endswith(".relative_position_bias_table"):
            return super().resized(name, tensor)
        side, new_side = (round(len(table) ** 0.5) for table in (tensor, self.get_parameter(name)))
        if side * side != len(tensor) or tensor.ndim != 2:
            return None
        tables = interpolate_bias(tensor.T.unflatten(1, (side, side)), (new_side, new_side))
        return tables.flatten(1).T.contiguous()
