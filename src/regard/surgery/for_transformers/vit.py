"""The attention of transformers' ViT and DeiT, which are copies of each other."""

from __future__ import annotations

from torch import Tensor

from regard.attention import softmax_attention
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_transformers.shared import config_obstacle, project, returns_weights
from regard.surgery.inspection import Upstream


class ViTAttention(AttentionAdapter):
    """Adapter of `ViTAttention` and `DeiTAttention`.

    Masked calls, and implementations of attention other than "sdpa", run the upstream forward.
    """

    upstream_classes = (
        "transformers.models.vit.modeling_vit.ViTAttention",
        "transformers.models.deit.modeling_deit.DeiTAttention",
    )
    mechanism = "softmax attention"
    required_attributes = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling", "attention_dropout", "config")

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline a configuration that asks for attention weights."""
        return config_obstacle(module)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over `[B, N, C]`; like "sdpa", return no weights."""
        if self.runs_upstream(
            {
                "the call has an attention mask": attention_mask is not None,
                "the call must return the attention weights": returns_weights(self, options),
            }
        ):
            return super().forward(hidden_states, attention_mask, **options)
        query, key, value = project(self, hidden_states)
        dropout_p = self.attention_dropout if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scaling, dropout_p=dropout_p, backend=self.backend)
        return dense(self.o_proj, out.flatten(-2)), None
