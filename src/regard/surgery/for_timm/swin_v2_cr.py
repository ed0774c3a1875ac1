"""timm's other Swin V2, whose relative bias has no bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_timm.swin import is_ragged
from regard.surgery.for_timm.swin_v2 import attend, block_note
from regard.surgery.inspection import Upstream, needs_weights
from regard.surgery.layouts import split_qkv, window_bias


class SwinTransformerV2CrBlock(AttentionAdapter):
    """Adapter of `SwinTransformerV2CrBlock`, like that of `SwinTransformerV2Block`.

    timm evaluates the MLP of the bias for every pair of a window's tokens, regard for every offset. In training, timm
    drops hidden values of each pair, so these calls run the upstream forward.
    """

    upstream_classes = ("timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock",)
    mechanism = "window attention"
    required_attributes = ("attn", "window_size", "shift_size", "feat_size", "_shifted_window_attn")
    inner_attention = ("attn", "timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention")

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note what `SwinTransformerV2Block` notes, and a dropout inside the bias."""
        p = module.attn.meta_mlp.drop1.p
        bias = f"with dropout {p} of its relative bias, training runs as before" if p else ""
        return "; ".join(filter(None, (block_note(module, module.feat_size), bias)))

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        attn: Upstream = self.attn
        if self.runs_upstream(
            {
                "its grid is no multiple of the window": is_ragged(x.shape[1:3], self.window_size),
                "its attn_drop needs the attention weights": needs_weights(attn.attn_drop),
                "its meta_mlp drops hidden values in training": needs_weights(attn.meta_mlp.drop1),
                "its meta_mlp has hooks": has_hooks(attn.meta_mlp),
                "its attn has hooks": has_hooks(attn),
            }
        ):
            return super()._shifted_window_attn(x)  # type: ignore[misc]  # the upstream class has it
        bias = window_bias(attn.meta_mlp(_offsets(attn)), self.window_size)
        return attend(self, split_qkv(dense(attn.qkv, x), attn.num_heads), bias)


def _offsets(attn: Upstream) -> Tensor:
    """Return the MLP's input for every query minus key, `[prod(2 * w - 1), 2]`."""
    like = attn.relative_coordinates_log
    steps = [torch.arange(1 - size, size, device=like.device, dtype=torch.float32) for size in attn.window_size]
    offset = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flatten(0, -2)
    return (offset.sign() * torch.log(1.0 + offset.abs())).to(like.dtype)
