"""timm's `Attention`, which most of its transformers use, and the block of its ViT."""

from __future__ import annotations

from torch import Tensor, nn

from regard.attention import softmax_attention
from regard.dense import dense, does_nothing, has_hooks
from regard.surgery.adapter import Adapter, AttentionAdapter, attach
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inference.layer_scale import absorbing_layer, fold_scale
from regard.surgery.inference.norm_mlp import absorb_norm, add_mlp
from regard.surgery.inspection import Sharing, Upstream


class Attention(AttentionAdapter):
    """Adapter of `Attention`; masked calls run the upstream forward, as do those whose attention weights have hooks."""

    upstream_classes = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")
    mechanism = "softmax attention"
    required_attributes = ("qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop", "num_heads", "scale")
    last_layer = "proj"

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline gated attention."""
        return "its output is gated" if getattr(module, "gate", None) is not None else ""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend over `[B, N, C]`."""
        if self.runs_upstream(
            {
                "the call has an attention mask": attn_mask is not None or is_causal,
                "its attn_drop has hooks, which expect the attention weights": has_hooks(self.attn_drop),
            }
        ):
            return super().forward(x, attn_mask, is_causal)
        query, key, value = dense(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)  # autocast norms in float32
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = softmax_attention(query, key, value, scale=self.scale, dropout_p=dropout_p, backend=self.backend)
        out = out.flatten(-2)
        out = self.norm(out) if hasattr(self, "norm") else out
        return self.proj_drop(dense(self.proj, out))


class AddedMlpBlock(Adapter):
    """Forward of `Block` without drop path and layer scale around its MLP, whose norm was absorbed."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Transform `[B, N, C]`."""
        attended = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(attended))
        return add_mlp(self, x)


class BlockFold(Fold):
    """Fold the layer scales of ViT's `Block` into the dense layers before them, and a norm into the one after it."""

    upstream_classes = ("timm.models.vision_transformer.Block",)

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold `ls1` into the attention and `ls2` into the MLP."""
        folded = []
        for name, part in (("ls1", "attn"), ("ls2", "mlp")):
            scale, last = getattr(module, name), absorbing_layer(module, part, sharing)
            if last and type(scale).__qualname__ == "LayerScale" and not has_hooks(scale):
                fold_scale(module, last, scale.gamma)
                setattr(module, name, nn.Identity())
                folded.append((name, last))
        if does_nothing(module.ls2) and does_nothing(module.drop_path2) and absorb_norm(module, sharing):
            attach(module, AddedMlpBlock)
            folded.append(("norm2", "mlp.fc1"))
        return module, folded
