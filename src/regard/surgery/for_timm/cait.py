"""timm's CaiT: talking-heads attention, class attention, and their blocks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.attention import softmax_attention, talking_heads_attention
from regard.dense import dense, has_hooks
from regard.surgery.adapter import Adapter, AttentionAdapter, attach
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inference.layer_scale import absorbing_layer, fold_scale
from regard.surgery.inference.norm_mlp import absorb_norm, add_mlp
from regard.surgery.inspection import Sharing, Upstream, is_plain, needs_weights
from regard.surgery.layouts import split_heads
from regard.surgery.notes import dropout_note


class TalkingHeadAttn(AttentionAdapter):
    """Adapter of `TalkingHeadAttn`.

    Calls run the upstream forward in training with attention dropout, and if the mixes are not plain dense layers,
    because the adapter reads their weights: quantized, wrapped, pruned, or with hooks.
    """

    upstream_classes = ("timm.models.cait.TalkingHeadAttn",)
    mechanism = "talking-heads attention"
    required_attributes = ("qkv", "proj_l", "proj_w", "attn_drop", "proj", "proj_drop", "num_heads", "scale")
    last_layer = "proj"

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout."""
        return dropout_note(module.attn_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, N, C]`."""
        if self.runs_upstream(
            {
                "its attn_drop needs the attention weights": needs_weights(self.attn_drop),
                "its proj_l is not a plain dense layer": not is_plain(self.proj_l, nn.Linear),
                "its proj_w is not a plain dense layer": not is_plain(self.proj_w, nn.Linear),
            }
        ):
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
            backend=self.backend,
        )
        return self.proj_drop(dense(self.proj, out.flatten(-2)))


class ClassAttn(AttentionAdapter):
    """Adapter of `ClassAttn`; calls whose attention weights have hooks run the upstream forward."""

    upstream_classes = ("timm.models.cait.ClassAttn",)
    mechanism = "softmax attention"
    required_attributes = ("q", "k", "v", "attn_drop", "proj", "proj_drop", "num_heads", "scale")
    last_layer = "proj"

    def forward(self, x: Tensor) -> Tensor:
        """Attend from the first token, `[B, N, C]` to `[B, 1, C]`."""
        if self.runs_upstream(
            {"its attn_drop has hooks, which expect the attention weights": has_hooks(self.attn_drop)}
        ):
            return super().forward(x)
        head_dim = x.shape[-1] // self.num_heads
        query, key, value = (
            split_heads(one, head_dim) for one in (dense(self.q, x[:, :1]), dense(self.k, x), dense(self.v, x))
        )
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scale, dropout_p=dropout_p, backend=self.backend)
        return self.proj_drop(dense(self.proj, out.flatten(-2)))


class UnscaledBlock(Adapter):
    """Forward of `LayerScaleBlock` without its layer scales."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, N, C]`."""
        x = x + self.attn(self.norm1(x))
        return add_mlp(self, x) if self.norm2.weight is None else x + self.mlp(self.norm2(x))


class UnscaledBlockClassAttn(Adapter):
    """Forward of `LayerScaleBlockClassAttn` without its layer scales."""

    def forward(self, x: Tensor, x_cls: Tensor) -> Tensor:
        """Transform the class token `[B, 1, C]`, which attends to all tokens."""
        x_cls = x_cls + self.attn(self.norm1(torch.cat((x_cls, x), dim=1)))
        return add_mlp(self, x_cls) if self.norm2.weight is None else x_cls + self.mlp(self.norm2(x_cls))


class LayerScaleBlockFold(Fold):
    """Fold the layer scales of `LayerScaleBlock` into the dense layers before them."""

    upstream_classes = ("timm.models.cait.LayerScaleBlock",)
    unscaled: ClassVar[type[Adapter]] = UnscaledBlock

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold both scales or none: they are parameters of the block, whose forward changes."""
        scales = {"gamma_1": "attn", "gamma_2": "mlp"}
        folded = [(name, absorbing_layer(module, part, sharing)) for name, part in scales.items()]
        if not all(last for _, last in folded) or has_hooks(module.drop_path):
            return module, []
        for name, last in folded:
            fold_scale(module, last, getattr(module, name))
            delattr(module, name)
        attach(module, cls.unscaled)
        if absorb_norm(module, sharing):
            folded.append(("norm2", "mlp.fc1"))
        return module, folded


class LayerScaleBlockClassAttnFold(LayerScaleBlockFold):
    """Fold the layer scales of `LayerScaleBlockClassAttn` into the dense layers before them."""

    upstream_classes = ("timm.models.cait.LayerScaleBlockClassAttn",)
    unscaled = UnscaledBlockClassAttn
