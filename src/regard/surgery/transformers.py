"""Adapters for the attention modules of Hugging Face transformers, version 5."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from regard.attention import (
    efficient_additive_attention,
    neighborhood_attention,
    softmax_attention,
    window_attention,
)
from regard.attention.grid import crop_grid, pad_grid, whole_windows
from regard.onednn import dense, is_heard
from regard.surgery.adapters import Adapter, relative_bias, sees_weights, split_heads
from regard.surgery.timm import attend_to_patches


class ViTAttention(Adapter):
    """`ViTAttention` and `DeiTAttention`; masked calls, and attention other than "sdpa", run as before."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over `[B, N, C]`; there are no weights to return, as with "sdpa"."""
        if attention_mask is not None or asks_for_weights(self.config, options):
            return super().forward(hidden_states, attention_mask, **options)
        query, key, value = _project(self, hidden_states)
        dropout_p = self.attention_dropout if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scaling, dropout_p=dropout_p)
        return dense(self.o_proj, out.flatten(-2)), None


class Mlp(Adapter):
    """`ViTMLP`, `DeiTMLP` and `SwinMLP`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        activation: Any = self.activation_fn
        if type(activation).__name__ == "GELUActivation" and activation.act is F.gelu and not is_heard(activation):
            activation = F.gelu
        return dense(self.fc2, dense(self.fc1, hidden_states, activation=activation))


class SwinLayer(Adapter):
    """A block of Swin: padding, shift, partition, mask and merging are one call."""

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        **options: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform `[B, H * W, C]`; there are no weights to return, as with "sdpa"."""
        attention: Any = self.attention
        if not always_partition:
            self.set_shift_and_window_size(input_dimensions)
        window, bias = (self.window_size, self.window_size), attention.relative_position_bias
        if (
            (attention.training and attention.attention_dropout)
            or asks_for_weights(attention.config, options)
            or window != bias.window_size
            or is_heard(attention)
            or is_heard(bias)
        ):
            return super().forward(hidden_states, input_dimensions, always_partition, **options)
        x = self.layernorm_before(hidden_states).unflatten(1, input_dimensions)
        x = pad_grid(x, whole_windows(input_dimensions, window))  # before the projection: a padded key is its bias
        query, key, value = _project(attention, x)
        table = relative_bias(bias.relative_position_bias_table, window).to(query.dtype)
        out = window_attention(
            query, key, value, window, shift_size=self.shift_size, bias=table, scale=attention.scaling
        )
        out = self.dropout(dense(attention.o_proj, crop_grid(out, input_dimensions).flatten(-2)))
        hidden_states = hidden_states + self.drop_path(out.flatten(1, 2))
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states))), None


class SwiftFormerEfficientAdditiveAttention(Adapter):
    """SwiftFormer's attention, of the generation whose softmax runs over one element: every weight is 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, N, C]`."""
        query = dense(self.to_query, x)
        out, unit_query = efficient_additive_attention(
            query,
            dense(self.to_key, x),
            self.w_g.squeeze(-1).to(query.dtype),
            token_norm="ones",
            scale=self.scale_factor,
        )
        return dense(self.final, dense(self.proj, out, residual=unit_query))


class MobileViTV2LinearSelfAttention(Adapter):
    """MobileViTv2's attention; with attention dropout, training runs as before."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend over unfolded patches, `[B, C, P, N]`."""
        if sees_weights(self.attn_dropout):
            return super().forward(hidden_states)
        return self.out_proj(attend_to_patches(self.qkv_proj(hidden_states), self.embed_dim))


class NeighborhoodAttention(Adapter):
    """The attention of Dinat (and Nat), without NATTEN; calls that ask for weights run as before."""

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = False) -> tuple[Tensor, ...]:
        """Attend over `[B, H, W, C]`."""
        if output_attentions or sees_weights(self.dropout):
            return super().forward(hidden_states, output_attentions)
        projected = (dense(layer, hidden_states) for layer in (self.query, self.key, self.value))
        query, key, value = (split_heads(one, self.attention_head_size) for one in projected)
        dilation = getattr(self, "dilation", 1)  # Nat has none
        out = neighborhood_attention(
            query, key, value, self.kernel_size, dilation=dilation, bias=self.rpb.to(query.dtype)
        )
        return (out.flatten(-2),)


def asks_for_weights(config: Any, options: dict[str, object]) -> bool:  # noqa: ANN401
    """Tell whether a call wants what only the original path gives."""
    return config._attn_implementation != "sdpa" or bool(options.get("output_attentions"))


def _project(attention: Any, x: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    return tuple(split_heads(dense(layer, x), attention.head_dim) for layer in layers)
