"""transformers' DiNAT and NAT, without NATTEN."""

from __future__ import annotations

from torch import Tensor

from regard.attention import neighborhood_attention
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inspection import needs_weights
from regard.surgery.layouts import split_heads


class NeighborhoodAttention(AttentionAdapter):
    """Adapter of both models' `NeighborhoodAttention`; calls that return attention weights run the upstream forward."""

    upstream_classes = (
        "transformers.models.dinat.modeling_dinat.NeighborhoodAttention",
        "transformers.models.nat.modeling_nat.NeighborhoodAttention",
        "transformers.models.deprecated.nat.modeling_nat.NeighborhoodAttention",
    )
    mechanism = "neighborhood attention"
    required_attributes = ("query", "key", "value", "rpb", "kernel_size", "attention_head_size", "dropout")

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = False) -> tuple[Tensor, ...]:
        """Attend over `[B, H, W, C]`."""
        if self.runs_upstream(
            {
                "the call must return the attention weights": output_attentions,
                "its dropout needs the attention weights": needs_weights(self.dropout),
            }
        ):
            return super().forward(hidden_states, output_attentions)
        projected = (dense(layer, hidden_states) for layer in (self.query, self.key, self.value))
        query, key, value = (split_heads(one, self.attention_head_size) for one in projected)
        out = neighborhood_attention(
            query,
            key,
            value,
            self.kernel_size,
            dilation=getattr(self, "dilation", 1),  # Nat's module has none
            bias=self.rpb.to(query.dtype),
            backend=self.backend,
        )
        return (out.flatten(-2),)
