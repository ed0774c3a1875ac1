"""transformers' Swin."""

from __future__ import annotations

from torch import Tensor

from regard.attention import window_attention
from regard.attention.grid import crop_grid, pad_grid, whole_windows
from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_transformers.shared import config_obstacle, project, returns_weights
from regard.surgery.inspection import Upstream
from regard.surgery.layouts import window_bias


class SwinLayer(AttentionAdapter):
    """Adapter of `SwinLayer`: padding, shift, partition, mask, attention and merging are one call."""

    upstream_classes = ("transformers.models.swin.modeling_swin.SwinLayer",)
    mechanism = "window attention"
    required_attributes = (
        "attention",
        "layernorm_before",
        "layernorm_after",
        "mlp",
        "dropout",
        "drop_path",
        "window_size",
    )
    inner_attention = ("attention", "transformers.models.swin.modeling_swin.SwinAttention")

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline a configuration that asks for attention weights."""
        return config_obstacle(module.attention)

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        **options: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform `[B, H * W, C]`; like "sdpa", return no weights."""
        attention: Upstream = self.attention
        if not always_partition:
            self.set_shift_and_window_size(input_dimensions)
        bias, window = attention.relative_position_bias, (self.window_size, self.window_size)
        if self.runs_upstream(
            {
                "it drops attention weights in training": attention.training and attention.attention_dropout,
                "the call must return the attention weights": returns_weights(attention, options),
                "its window is not that of its relative position bias": window != bias.window_size,
                "its attention has hooks": has_hooks(attention),
                "its relative_position_bias has hooks": has_hooks(bias),
            }
        ):
            return super().forward(hidden_states, input_dimensions, always_partition, **options)
        x = self.layernorm_before(hidden_states).unflatten(1, input_dimensions)
        x = pad_grid(x, whole_windows(input_dimensions, window))  # before the projection: a padded key is its bias
        query, key, value = project(attention, x)
        out = window_attention(
            query,
            key,
            value,
            window,
            shift_size=self.shift_size,
            bias=window_bias(bias.relative_position_bias_table, window).to(query.dtype),
            scale=attention.scaling,
            backend=self.backend,
        )
        out = self.dropout(dense(attention.o_proj, crop_grid(out, input_dimensions).flatten(-2)))
        hidden_states = hidden_states + self.drop_path(out.flatten(1, 2))
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states))), None
