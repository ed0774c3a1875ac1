"""transformers' SwiftFormer, of the generation whose softmax runs over one element: every token weight is 1."""

from __future__ import annotations

from torch import Tensor

from regard.attention import efficient_additive_attention
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inference.conv_norm import ConvNormFold
from regard.surgery.inference.swiftformer_blocks import AttentionBlockFold, ConvBlockFold

HOME = "transformers.models.swiftformer.modeling_swiftformer"


class SwiftFormerEfficientAdditiveAttention(AttentionAdapter):
    """Adapter of `SwiftFormerEfficientAdditiveAttention`."""

    upstream_classes = (f"{HOME}.SwiftFormerEfficientAdditiveAttention",)
    mechanism = "efficient additive attention"
    required_attributes = ("to_query", "to_key", "w_g", "proj", "final", "scale_factor")

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, N, C]`."""
        query = dense(self.to_query, x)
        out, unit_query = efficient_additive_attention(
            query,
            dense(self.to_key, x),
            self.w_g.squeeze(-1).to(query.dtype),
            token_norm="ones",
            scale=self.scale_factor,
            backend=self.backend,
        )
        return dense(self.final, dense(self.proj, out, residual=unit_query))


class SwiftFormerEmbeddingsFold(ConvNormFold):
    """Fold the batch norm of `SwiftFormerEmbeddings` into its convolution."""

    upstream_classes = (f"{HOME}.SwiftFormerEmbeddings",)
    convolution = "proj"
    norm = "norm"


class SwiftFormerConvEncoderFold(ConvBlockFold):
    """Rebuild `SwiftFormerConvEncoder` and `SwiftFormerLocalRepresentation`."""

    upstream_classes = (f"{HOME}.SwiftFormerConvEncoder", f"{HOME}.SwiftFormerLocalRepresentation")
    depthwise, first, second = "depth_wise_conv", "point_wise_conv1", "point_wise_conv2"


class SwiftFormerEncoderBlockFold(AttentionBlockFold):
    """Rebuild `SwiftFormerEncoderBlock`."""

    upstream_classes = (f"{HOME}.SwiftFormerEncoderBlock",)
    token_norm = "ones"
