"""transformers' MobileViTv2."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inference.conv_norm import ConvNormFold
from regard.surgery.inspection import Upstream, needs_weights
from regard.surgery.layouts import attend_to_patches
from regard.surgery.notes import dropout_note

HOME = "transformers.models.mobilevitv2.modeling_mobilevitv2"


class MobileViTV2LinearSelfAttention(AttentionAdapter):
    """Adapter of `MobileViTV2LinearSelfAttention`; training with attention dropout runs the upstream forward."""

    upstream_classes = (f"{HOME}.MobileViTV2LinearSelfAttention",)
    mechanism = "separable attention"
    required_attributes = ("qkv_proj", "out_proj", "attn_dropout", "embed_dim")
    unfolded_after: ClassVar[str] = "conv_1x1"  # of the layer, for `regard.explain`

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout."""
        return dropout_note(module.attn_dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend over unfolded patches, `[B, C, P, N]`."""
        if self.runs_upstream({"its attn_dropout needs the attention weights": needs_weights(self.attn_dropout)}):
            return super().forward(hidden_states)
        return self.out_proj(attend_to_patches(self.qkv_proj(hidden_states), self.embed_dim, self.backend))


class MobileViTV2ConvLayerFold(ConvNormFold):
    """Fold the batch norm of `MobileViTV2ConvLayer` into its convolution."""

    upstream_classes = (f"{HOME}.MobileViTV2ConvLayer",)
    convolution = "convolution"
    norm = "normalization"
