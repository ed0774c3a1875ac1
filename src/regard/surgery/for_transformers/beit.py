"""The attention of transformers' BEiT, whose mask is the relative bias."""

from __future__ import annotations

from torch import Tensor

from regard.attention import softmax_attention
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_transformers.shared import config_obstacle, project, returns_weights
from regard.surgery.inspection import Upstream


class BeitAttention(AttentionAdapter):
    """Adapter of `BeitAttention`; boolean masks run the upstream forward, as do implementations other than "sdpa"."""

    upstream_classes = ("transformers.models.beit.modeling_beit.BeitAttention",)
    mechanism = "softmax attention"
    required_attributes = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling", "attention_dropout", "config")

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline a configuration that asks for attention weights."""
        return config_obstacle(module)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over `[B, N, C]` with a bias `[B or 1, nh, N, N]`; like "sdpa", return no weights."""
        bias = attention_mask
        if self.runs_upstream(
            {
                "the call has a boolean attention mask": bias is not None and not bias.is_floating_point(),
                "the call must return the attention weights": returns_weights(self, options),
            }
        ):
            return super().forward(hidden_states, attention_mask, **options)
        query, key, value = project(self, hidden_states)
        out = softmax_attention(
            query,
            key,
            value,
            bias=None if bias is None else bias.to(query.dtype),
            scale=self.scaling,
            dropout_p=self.attention_dropout if self.training else 0.0,
            backend=self.backend,
        )
        return dense(self.o_proj, out.flatten(-2)), None
