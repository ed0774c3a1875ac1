"""ViT and DeiT: transformer blocks on the patches of an image and a class token, with full attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import Attention
from regard.errors import ShapeError
from regard.layers import Blocks, PatchEmbed, TransformerBlock, drop_path_rates, interpolate_position
from regard.models._backbone import Backbone, column, initialize
from regard.models.vit.checkpoint import name_tensors
from regard.models.vit.variants import VARIANTS, VitConfig


class Vit(Backbone[VitConfig]):
    """Vision Transformer, and Data-efficient image Transformer.

    Patches, a class token before them, a position embedding, blocks, a last layer norm, one dense layer on the class
    token. DeiT with distillation has a second token and a second dense layer on it. The result is the mean of both; in
    training, if `distilled_training` is set, it is both, as a tuple. Images may have any size that patches fill: the
    position embedding is interpolated.

    `forward_features` returns all tokens, `[B, prefix + N, C]`: class token, distillation token where there is one,
    patches row by row. `feature_info` describes every block.

    Args:
        config: the configuration; see `VitConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together, or images that patches do not fill.

    Source:
        ViT (arXiv 2010.11929), DeiT (2012.12877); facebookresearch/deit at 7e160fe, `models.py`. The parameters carry
        timm's names.

    Example:
        >>> model = Vit(VitConfig(embed_dim=32, depth=2, num_heads=2, img_size=64), num_classes=10).eval()
        >>> model(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> tokens, [features] = model.forward_intermediates(torch.randn(1, 3, 96, 64), 1)
        >>> tokens.shape, features.shape
        (torch.Size([1, 25, 32]), torch.Size([1, 32, 6, 4]))
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stage_list = "blocks"
    stem_pattern = r"^(?:cls_token|dist_token|pos_embed|patch_embed)"
    block_pattern = r"^blocks\.(\d+)"
    pooling = "token"
    head_dist: nn.Module

    def __init__(self, config: VitConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        dim = config.embed_dim
        self.grid = (config.img_size // config.patch_size,) * 2
        self.num_prefix_tokens = 2 if config.distilled else 1
        self.distilled_training = False
        self.patch_embed = PatchEmbed(in_chans, dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim)) if config.distilled else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_prefix_tokens + self.grid[0] * self.grid[1], dim))
        self.blocks = Blocks(
            *(
                TransformerBlock(
                    dim,
                    Attention(dim, config.num_heads),
                    mlp_ratio=config.mlp_ratio,
                    drop_path_rate=rate,
                    norm_layer=partial(nn.LayerNorm, eps=1e-6),
                )
                for rate in drop_path_rates(config.drop_path_rate, [config.depth])[0]
            )
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialize(self, nn.Linear)
        for tokens in (self.cls_token, self.dist_token, self.pos_embed):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: VitConfig) -> list[dict[str, Any]]:
        """Return `feature_info` of the blocks."""
        return column("blocks", config.depth, config.embed_dim, config.patch_size)

    @staticmethod
    def name_classifiers(config: VitConfig) -> tuple[str, ...]:
        """Return the names of the classifier, or of both with distillation."""
        return ("head", "head_dist") if config.distilled else ("head",)

    def embed(self, x: Tensor) -> Tensor:
        """Cut images into tokens, prepend the class tokens and add the position embedding."""
        positions = interpolate_position(
            self.pos_embed,
            self.grid,
            patch_grid(x.shape[2:], self.config.patch_size),
            num_prefix_tokens=self.num_prefix_tokens,
        )
        tokens = [self.cls_token] if self.dist_token is None else [self.cls_token, self.dist_token]
        patches = self.patch_embed(x).flatten(1, 2)  # [B, N, C]
        return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), patches], dim=1) + positions

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the patches as a grid, with the channels in front."""
        grid = patch_grid(size, self.config.patch_size)
        return x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def finish(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Normalize and return all tokens."""
        return self.norm(x)

    def pool(self, x: Tensor) -> Tensor:
        """Return the class token, `[B, C]`; with distillation both tokens, `[B, 2, C]`."""
        return x[:, :2] if self.config.distilled else x[:, 0]

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits of the class token; with distillation the mean of both, or both in distilled training."""
        if not self.config.distilled:
            return self.head(x)
        logits, distilled = self.head(x[:, 0]), self.head_dist(x[:, 1])
        if self.distilled_training and self.training:
            return logits, distilled
        return (logits + distilled) / 2

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Pool features, then classify them unless `pre_logits`, which averages the two tokens of distillation."""
        out = super().forward_head(x, pre_logits)
        if isinstance(out, Tensor) and self.config.distilled and self.global_pool:
            return out.mean(dim=1) if pre_logits or not self.num_classes else out
        return out

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokens and the position embedding."""
        return {name for name, _ in self.named_parameters() if name in ("cls_token", "dist_token", "pos_embed")}

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Interpolate the position embedding of another image size."""
        if name != "pos_embed":
            return super().resized(name, tensor)
        return resized_position(tensor, self.pos_embed, self.grid, self.num_prefix_tokens)


def patch_grid(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Return the number of patches in the rows and columns of an image.

    Raises:
        ShapeError: a height or width that patches do not fill.

    Example:
        >>> patch_grid((224, 160), 16)
        (14, 10)
    """
    height, width = size
    if height % patch_size or width % patch_size:
        remedy = "resize or pad the images"
        raise ShapeError(
            f"image sizes must be multiples of {patch_size}, the patch size, got {height} x {width}; {remedy}"
        )
    return height // patch_size, width // patch_size


def resized_position(embedding: Tensor, like: Tensor, grid: Sequence[int], num_prefix_tokens: int = 0) -> Tensor | None:
    """Interpolate a checkpoint's position embedding of square images for a model's grid.

    Returns:
        The embedding, in the shape of `like`; None if its grid is not square, or its number of channels is another.
    """
    if embedding.ndim != 3 or embedding.shape[::2] != like.shape[::2]:
        return None
    places = embedding.shape[1] - num_prefix_tokens
    side = isqrt(max(places, 0))
    if side < 1 or side * side != places:
        return None
    return interpolate_position(embedding, (side, side), grid, num_prefix_tokens=num_prefix_tokens)
