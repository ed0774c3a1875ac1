"""Adapters for the attention modules of timm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regard.attention import (
    efficient_additive_attention,
    separable_attention,
    softmax_attention,
    talking_heads_attention,
    window_attention,
)
from regard.onednn import dense, is_heard
from regard.surgery.adapters import Adapter, relative_bias, sees_weights, split_heads
from regard.surgery.affine import plain


class Attention(Adapter):
    """`timm.layers.Attention`; masked calls, and those whose weights somebody listens to, run as before."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend over `[B, N, C]`."""
        if attn_mask is not None or is_causal or is_heard(self.attn_drop):
            return super().forward(x, attn_mask, is_causal)
        query, key, value = dense(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)  # autocast norms in float32
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scale, dropout_p=dropout_p).flatten(-2)
        out = self.norm(out) if hasattr(self, "norm") else out
        return self.proj_drop(dense(self.proj, out))


class ClassAttn(Adapter):
    """`ClassAttn` of timm's CaiT."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend from the first token, `[B, N, C]` to `[B, 1, C]`."""
        if is_heard(self.attn_drop):
            return super().forward(x)
        head_dim = x.shape[-1] // self.num_heads
        query, key, value = (
            split_heads(one, head_dim) for one in (dense(self.q, x[:, :1]), dense(self.k, x), dense(self.v, x))
        )
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scale, dropout_p=dropout_p)
        return self.proj_drop(dense(self.proj, out.flatten(-2)))


class TalkingHeadAttn(Adapter):
    """`TalkingHeadAttn` of timm's CaiT; with attention dropout, training runs as before.

    So do calls whose mixes are no plain dense layers, since we read their weights: quantized, wrapped, pruned, hooked.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, N, C]`."""
        if sees_weights(self.attn_drop) or not (plain(self.proj_l, nn.Linear) and plain(self.proj_w, nn.Linear)):
            return super().forward(x)
        query, key, value = dense(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        mixes = (self.proj_l.weight, self.proj_w.weight, self.proj_l.bias, self.proj_w.bias)
        logits_mix, weights_mix, logits_bias, weights_bias = (mix.to(query.dtype) for mix in mixes)
        out = talking_heads_attention(
            query,
            key,
            value,
            logits_mix,
            weights_mix,
            logits_bias=logits_bias,
            weights_bias=weights_bias,
            scale=self.scale,
        )
        return self.proj_drop(dense(self.proj, out.flatten(-2)))


class SwinTransformerBlock(Adapter):
    """The attention of a block of timm's Swin: shift, partition, mask and merging are one call.

    timm shifts first and pads then, we pad first, so a grid that is no multiple of the window runs as before.
    """

    def _attn(self, x: Tensor) -> Tensor:
        attn: Any = self.attn
        ragged = any(length % size for length, size in zip(x.shape[1:3], self.window_size, strict=True))
        if ragged or sees_weights(attn.attn_drop) or is_heard(attn):
            return super()._attn(x)  # type: ignore[misc]
        query, key, value = dense(attn.qkv, x).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
        bias = relative_bias(attn.relative_position_bias_table, self.window_size).to(query.dtype)
        out = window_attention(
            query, key, value, self.window_size, shift_size=self.shift_size, bias=bias, scale=attn.scale
        )
        return attn.proj_drop(dense(attn.proj, out.flatten(-2)))


class EfficientAdditiveAttention(Adapter):
    """`EfficientAdditiveAttention` of timm's SwiftFormer."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, C, H, W]`."""
        grid = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        query = dense(self.to_query, grid)
        weight = self.w_g.squeeze(-1).to(query.dtype)
        out, unit_query = efficient_additive_attention(query, dense(self.to_key, grid), weight, scale=self.scale_factor)
        return dense(self.final, dense(self.proj, out, residual=unit_query)).permute(0, 3, 1, 2)


class Mlp(Adapter):
    """The dense layers around an activation, in timm's transformer blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        x = self.norm(self.drop1(dense(self.fc1, x, activation=self.act)))
        return self.drop2(dense(self.fc2, x))


class LinearSelfAttention(Adapter):
    """`LinearSelfAttention` of timm's MobileViTv2; cross-attention, and dropout in training, run as before."""

    def forward(self, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
        """Attend over unfolded patches, `[B, C, P, N]`."""
        if x_prev is not None or sees_weights(self.attn_drop):
            return super().forward(x, x_prev)
        return self.out_drop(self.out_proj(attend_to_patches(self.qkv_proj(x), self.embed_dim)))


def attend_to_patches(projected: Tensor, dim: int) -> Tensor:
    """Apply separable attention to the projection `[B, 1 + 2 * C, P, N]` of N unfolded patches: `[B, C, P, N]`.

    Where a token's channels stand apart in memory, the kernel would gather them one by one; the definition does not.
    """
    if projected.stride(1) != 1:
        query, key, value = projected.split([1, dim, dim], 1)
        return value.relu() * (key * query.softmax(-1)).sum(-1, keepdim=True)
    query, key, value = projected.permute(0, 2, 3, 1).split([1, dim, dim], -1)  # views, [B, P, N, ...]
    return separable_attention(query, key, value, patch_size=(projected.shape[2], 1)).permute(0, 3, 1, 2)
