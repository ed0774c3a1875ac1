"""timm's MobileViTv2."""

from __future__ import annotations

from torch import Tensor

from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inspection import Upstream, needs_weights
from regard.surgery.layouts import attend_to_patches
from regard.surgery.notes import dropout_note


class LinearSelfAttention(AttentionAdapter):
    """Adapter of `LinearSelfAttention`; cross-attention and training with dropout run the upstream forward."""

    upstream_classes = ("timm.models.mobilevit.LinearSelfAttention",)
    mechanism = "separable attention"
    required_attributes = ("qkv_proj", "out_proj", "attn_drop", "out_drop", "embed_dim")

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
