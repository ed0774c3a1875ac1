"""timm's BEiT, whose attention has a relative bias for patches and class token."""

from __future__ import annotations

from torch import Tensor

from regard.attention import softmax_attention
from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_timm.separate_bias import SEPARATE_BIAS, SeparateBiasFold, project
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inference.layer_scale import absorbing_layer, fold_scale
from regard.surgery.inspection import Sharing, Upstream

ATTENTION = "timm.models.beit.Attention"


class Attention(AttentionAdapter):
    """Adapter of `Attention`; calls whose attention weights have hooks run the upstream forward."""

    upstream_classes = (ATTENTION,)
    mechanism = "softmax attention"
    required_attributes = (
        *SEPARATE_BIAS,
        "qkv",
        "relative_position_bias_table",
        "_get_rel_pos_bias",
        "attn_drop",
        "proj",
        "proj_drop",
        "num_heads",
        "scale",
    )
    last_layer = "proj"

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Attend over `[B, N, C]`."""
        if self.runs_upstream(
            {"its attn_drop has hooks, which expect the attention weights": has_hooks(self.attn_drop)}
        ):
            return super().forward(x, shared_rel_pos_bias)
        query, key, value = project(self, x)
        bias = shared_rel_pos_bias
        if self.relative_position_bias_table is not None:
            own = self._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        dropout_p = self.attn_drop.p if self.training else 0.0
        out = softmax_attention(
            query,
            key,
            value,
            bias=None if bias is None else bias.to(query.dtype),
            scale=self.scale,
            dropout_p=dropout_p,
            backend=self.backend,
        )
        return self.proj_drop(dense(self.proj, out.flatten(-2)))


class AttentionFold(SeparateBiasFold):
    """Fold the separate biases of `Attention` into its `qkv`."""

    upstream_classes = (ATTENTION,)


class BlockFold(Fold):
    """Fold the layer scales of BEiT's `Block` into the dense layers before them."""

    upstream_classes = ("timm.models.beit.Block",)

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold both scales or none: the forward of the block applies both or none."""
        scales = {"gamma_1": "attn", "gamma_2": "mlp"}
        if module.gamma_1 is None or any(id(getattr(module, name)) in sharing.names for name in scales):
            return module, []
        folded = [(name, absorbing_layer(module, part, sharing)) for name, part in scales.items()]
        if not all(last for _, last in folded):
            return module, []
        for name, last in folded:
            fold_scale(module, last, getattr(module, name))
            setattr(module, name, None)
        return module, folded
