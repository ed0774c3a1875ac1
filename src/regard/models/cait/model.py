"""CaiT: talking-heads blocks on the patches of an image, then blocks in which a class token attends to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import ClassAttention, TalkingHeadsAttention
from regard.errors import ShapeError
from regard.layers import Blocks, LayerScale, Mlp, PatchEmbed, TransformerBlock, interpolate_position
from regard.models._backbone import Backbone, column, initialize
from regard.models.cait.checkpoint import name_tensors
from regard.models.cait.variants import VARIANTS, CaitConfig
from regard.models.vit.model import patch_grid, resized_position


class Cait(Backbone[CaitConfig]):
    """Class-Attention in image Transformers.

    Patches, a position embedding, blocks with layer scale, then blocks in which only the class token attends and
    changes, a last layer norm, one dense layer on the class token. Images may have any size that patches fill: the
    position embedding is interpolated.

    `forward_features` returns the class token and the patches row by row, `[B, 1 + N, C]`. `feature_info` describes
    the blocks on the patches.

    Args:
        config: the configuration; see `CaitConfig`.
        num_classes: logits; 0 for pooled features.
        in_chans: channels of the images.

    Raises:
        ShapeError: fields of the configuration that do not fit together, or images that patches do not fill.

    Source:
        CaiT (arXiv 2103.17239); facebookresearch/deit at 7e160fe, `cait_models.py`. The parameters carry timm's names
        but for the layer scales.

    Example:
        >>> model = Cait(CaitConfig(embed_dim=32, depth=2, num_heads=2, img_size=64), num_classes=10).eval()
        >>> model(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> tokens, [features] = model.forward_intermediates(torch.randn(1, 3, 96, 64), 1)
        >>> tokens.shape, features.shape
        (torch.Size([1, 25, 32]), torch.Size([1, 32, 6, 4]))
    """

    variants = VARIANTS
    name_tensors = staticmethod(name_tensors)
    stage_list = "blocks"
    stem_pattern = r"^(?:cls_token|pos_embed|patch_embed)"
    block_pattern = r"^blocks\.(\d+)"
    pooling = "token"

    def __init__(self, config: CaitConfig, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(config, num_classes=num_classes, in_chans=in_chans)
        dim = config.embed_dim
        self.grid = (config.img_size // config.patch_size,) * 2
        self.patch_embed = PatchEmbed(in_chans, dim, config.patch_size)
        self.cls_token: nn.Parameter | None = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], dim))
        self.blocks = Blocks(
            *(
                TransformerBlock(
                    dim,
                    TalkingHeadsAttention(dim, config.num_heads),
                    mlp_ratio=config.mlp_ratio,
                    layer_scale=config.layer_scale,
                    drop_path_rate=config.drop_path_rate,
                    norm_layer=partial(nn.LayerNorm, eps=1e-6),
                )
                for _ in range(config.depth)
            )
        )
        self.blocks_token_only = Blocks(*(ClassAttentionBlock(config) for _ in range(config.depth_token_only)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialize(self, nn.Linear)
        for tokens in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(tokens, std=0.02)
        self.reset_classifier(num_classes)

    @staticmethod
    def describe_features(config: CaitConfig) -> list[dict[str, Any]]:
        """Return `feature_info` of the blocks on the patches."""
        return column("blocks", config.depth, config.embed_dim, config.patch_size)

    def embed(self, x: Tensor) -> Tensor:
        """Cut images into tokens, `[B, N, C]`, and add the position embedding."""
        grid = patch_grid(x.shape[2:], self.config.patch_size)
        return self.patch_embed(x).flatten(1, 2) + interpolate_position(self.pos_embed, self.grid, grid)

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the patches as a grid, with the channels in front."""
        return x.transpose(1, 2).unflatten(2, patch_grid(size, self.config.patch_size))

    def finish(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Run the blocks on the class token, then normalize all tokens, `[B, 1 + N, C]`."""
        if self.cls_token is not None:
            x = self.blocks_token_only(torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1))
        return self.norm(x)

    def pool(self, x: Tensor) -> Tensor:
        """Return the class token, `[B, C]`."""
        return x[:, 0]

    def no_weight_decay(self) -> set[str]:
        """Return the names of the class token and the position embedding."""
        return {name for name, _ in self.named_parameters() if name in ("cls_token", "pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns of layers; the blocks on the class token come after the blocks on the patches."""
        last = [(r"^blocks_token_only\.(\d+)", None), ("^norm", (99999,))]
        return {"stem": self.stem_pattern, "blocks": self.block_pattern, "blocks_token_only": last}

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that these blocks do not need; without a classifier, the class token, too."""
        kept = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if not self.global_pool:
            self.cls_token, self.blocks_token_only = None, Blocks()
        return kept

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, unless the class token was pruned."""
        if num_classes and self.cls_token is None:
            raise ShapeError("the class token was pruned, but a classifier needs it; prune with prune_head=False")
        super().reset_classifier(num_classes, global_pool)

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Interpolate the position embedding of another image size."""
        if name != "pos_embed":
            return super().resized(name, tensor)
        return resized_position(tensor, self.pos_embed, self.grid)


class ClassAttentionBlock(nn.Module):
    """Class attention and an MLP on the class token, each with a norm before it, layer scale and residual.

    Tokens are `[B, 1 + N, C]`, the class token first. The patches do not change.
    """

    def __init__(self, config: CaitConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ClassAttention(dim, config.num_heads)
        self.ls1 = LayerScale(dim, config.layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.ls2 = LayerScale(dim, config.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the class token of `[B, 1 + N, C]`."""
        token, patches = x[:, :1], x[:, 1:]
        token = token + self.ls1(self.attn(self.norm1(x)))
        token = token + self.ls2(self.mlp(self.norm2(token)))
        return torch.cat([token, patches], dim=1)
