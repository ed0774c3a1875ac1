"""timm's SwiftFormer, whose token weights are L2-normalized."""

from __future__ import annotations

from torch import Tensor, nn

from regard.attention import efficient_additive_attention
from regard.dense import dense
from regard.surgery.adapter import Adapter, AttentionAdapter, attach
from regard.surgery.inference.affine import can_fold
from regard.surgery.inference.conv_norm import ConvNormFold
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inference.swiftformer_blocks import AttentionBlockFold, ConvBlockFold
from regard.surgery.inspection import Sharing, Upstream

HOME = "timm.models.swiftformer"


class EfficientAdditiveAttention(AttentionAdapter):
    """Adapter of `EfficientAdditiveAttention`."""

    upstream_classes = (f"{HOME}.EfficientAdditiveAttention",)
    mechanism = "efficient additive attention"
    required_attributes = ("to_query", "to_key", "w_g", "proj", "final", "scale_factor")

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, C, H, W]`."""
        grid = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        query = dense(self.to_query, grid)
        out, unit_query = efficient_additive_attention(
            query,
            dense(self.to_key, grid),
            self.w_g.squeeze(-1).to(query.dtype),
            scale=self.scale_factor,
            backend=self.backend,
        )
        return dense(self.final, dense(self.proj, out, residual=unit_query)).permute(0, 3, 1, 2)


class EmbeddingFold(ConvNormFold):
    """Fold the batch norm of `Embedding` into its convolution."""

    upstream_classes = (f"{HOME}.Embedding",)
    convolution = "proj"
    norm = "norm"


class ConvEncoderFold(ConvBlockFold):
    """Rebuild `ConvEncoder` and `LocalRepresentation`."""

    upstream_classes = (f"{HOME}.ConvEncoder", f"{HOME}.LocalRepresentation")
    depthwise, first, second = "dwconv", "pwconv1", "pwconv2"


class BlockFold(AttentionBlockFold):
    """Rebuild `Block`."""

    upstream_classes = (f"{HOME}.Block",)
    token_norm = "l2"


class SingleHead(Adapter):
    """Classifier of `SwiftFormer` with one head instead of the mean of two."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify."""
        if self.global_pool == "avg":
            x = x.mean(dim=(2, 3))
        return x if pre_logits else self.head(x)


class SwiftFormerFold(Fold):
    """Replace the two averaged classifiers of `SwiftFormer` by one."""

    upstream_classes = (f"{HOME}.SwiftFormer",)

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Average the classifiers' parameters."""
        heads = (module.head, module.head_dist)
        if not all(can_fold(head, nn.Linear, sharing) for head in heads):
            return module, []
        for name in ("weight", "bias"):
            mean = sum(getattr(head, name).double() for head in heads) / 2
            setattr(module.head, name, nn.Parameter(mean.to(module.head.weight.dtype)))
        module.head_dist = nn.Identity()
        attach(module, SingleHead)
        return module, [("head_dist", "head")]
