"""timm's MobileViTv2."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import separable_attention
from regard.dense import depthwise_block, does_nothing, mlp
from regard.surgery.adapter import Adapter, AttentionAdapter, attach, detach
from regard.surgery.for_timm.conv import ConvAct
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inspection import Sharing, Upstream, class_name, needs_weights, obstacle, patched
from regard.surgery.layouts import attend_to_patches
from regard.surgery.notes import dropout_note


class LinearSelfAttention(AttentionAdapter):
    """Adapter of `LinearSelfAttention`; cross-attention and training with dropout run the upstream forward."""

    upstream_classes = ("timm.models.mobilevit.LinearSelfAttention",)
    mechanism = "separable attention"
    required_attributes = ("qkv_proj", "out_proj", "attn_drop", "out_drop", "embed_dim")
    unfolded_after: ClassVar[str] = "conv_1x1"  # of the block, for `regard.explain`

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout."""
        return dropout_note(module.attn_drop)

    def forward(self, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
        """Attend over unfolded patches, `[B, C, P, N]`."""
        if self.runs_upstream(
            {
                "the call is cross-attention": x_prev is not None,
                "its attn_drop needs the attention weights": needs_weights(self.attn_drop),
            }
        ):
            return super().forward(x, x_prev)
        return self.out_drop(self.out_proj(attend_to_patches(self.qkv_proj(x), self.embed_dim, self.backend)))


class GridAttention(AttentionAdapter):
    """Forward of `LinearSelfAttention` on the image, which is not unfolded into patches."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, C, H, W]`."""
        sizes = [1, self.embed_dim, self.embed_dim]
        query, key, value = self.qkv_proj(x).permute(0, 2, 3, 1).split(sizes, -1)
        dropout_p = self.attn_drop.p if self.training else 0.0
        options = {"patch_size": self.patch_size, "dropout_p": dropout_p, "backend": self.backend}
        return self.out_drop(self.out_proj(separable_attention(query, key, value, **options).permute(0, 3, 1, 2)))


class GridMlp(Adapter):
    """Forward of `ConvMlp` without a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform every pixel of `[B, C, H, W]`."""
        return mlp(self.fc1, self.fc2, x, activation=self.act)


class GridBlock(Adapter):
    """Forward of `MobileVitV2Block` on the image: only attention has to know the patches."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`; a grid that is no multiple of the patches is resized, as upstream."""
        size = [math.ceil(n / patch) * patch for n, patch in zip(x.shape[2:], self.patch_size, strict=True)]
        if size != list(x.shape[2:]):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        if isinstance(self.conv_kxk, ConvAct):
            x = depthwise_block(x, self.conv_kxk.conv, [self.conv_1x1], (None, self.conv_kxk.bn, None))
        else:
            x = self.conv_1x1(self.conv_kxk(x))
        return self.conv_proj(self.norm(self.transformer(x)))


class BlockFold(Fold):
    """Leave out the unfolding of `MobileVitV2Block`, which copies the image twice and undoes its memory layout."""

    upstream_classes = ("timm.models.mobilevit.MobileVitV2Block",)
    is_channels_last = True

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Make block and attention run on the image, if nothing else in the block depends on the unfolding."""
        blocks = list(module.transformer)
        if (
            type(module.transformer) is not nn.Sequential
            or obstacle(module.transformer, "timm", sharing)
            or any(patched(part) for part in module.transformer.modules())
            or not all(_is_standard(block) for block in blocks)
        ):
            return module, []
        for block in blocks:
            detach(block.attn)
            attach(block.attn, GridAttention)
            block.attn.patch_size = tuple(module.patch_size)
            if does_nothing(block.mlp.norm) and does_nothing(block.mlp.drop):
                attach(block.mlp, GridMlp)
        attach(module, GridBlock)
        return module, []


def _is_standard(block: Upstream) -> bool:
    """Whether a transformer block consists of fused attention, convolutions of one pixel and group norms."""
    return (
        class_name(type(block)) == "timm.models.mobilevit.LinearTransformerBlock"
        and isinstance(block.attn, LinearSelfAttention)
        and class_name(type(block.mlp)) == "timm.layers.mlp.ConvMlp"
        and isinstance(block.norm1, nn.GroupNorm)
        and isinstance(block.norm2, nn.GroupNorm)
    )
