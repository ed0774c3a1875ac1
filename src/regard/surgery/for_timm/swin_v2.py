"""timm's Swin V2."""

from __future__ import annotations

from torch import Tensor

from regard.attention import window_attention
from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_timm.separate_bias import SEPARATE_BIAS, SeparateBiasFold, project
from regard.surgery.for_timm.swin import is_ragged, ragged_note
from regard.surgery.inspection import Upstream, needs_weights
from regard.surgery.layouts import continuous_window_bias, scaled_cosine
from regard.surgery.notes import dropout_note, mask_note

WINDOW_ATTENTION = "timm.models.swin_transformer_v2.WindowAttention"


class SwinTransformerV2Block(AttentionAdapter):
    """Adapter of `SwinTransformerV2Block`, like that of `SwinTransformerBlock`.

    Its logits are cosines times a factor per head, and its bias comes from an MLP.
    """

    upstream_classes = ("timm.models.swin_transformer_v2.SwinTransformerV2Block",)
    mechanism = "window attention"
    required_attributes = ("attn", "window_size", "shift_size", "input_resolution", "_attn")
    inner_attention = ("attn", WINDOW_ATTENTION)

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline versions whose attention has other attributes."""
        needed = (*SEPARATE_BIAS, "qkv", "logit_scale", "cpb_mlp", "relative_coords_table", "softmax")
        missing = [name for name in needed if not hasattr(module.attn, name)]
        return f"this version's attn has no {', '.join(missing)}" if missing else ""

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout, a grid that is no multiple of the window, and a mask that may not hide."""
        return block_note(module, module.input_resolution)

    def _attn(self, x: Tensor) -> Tensor:
        attn: Upstream = self.attn
        if self.runs_upstream(
            {
                "its grid is no multiple of the window": is_ragged(x.shape[1:3], self.window_size),
                "its attn_drop needs the attention weights": needs_weights(attn.attn_drop),
                "its softmax has hooks": has_hooks(attn.softmax),
                "its attn has hooks": has_hooks(attn),
            }
        ):
            return super()._attn(x)  # type: ignore[misc]  # the upstream class has it
        bias = continuous_window_bias(attn.cpb_mlp, attn.relative_coords_table, self.window_size)
        return attend(self, project(attn, x), bias)


def block_note(block: Upstream, grid: tuple[int, ...]) -> str:
    """Note an attention dropout, a grid that is no multiple of the window, and a mask that may not hide."""
    dropout, ragged = dropout_note(block.attn.attn_drop), ragged_note(grid, block.window_size)
    return "; ".join(filter(None, (dropout, ragged, mask_note(block.attn.logit_scale, block.shift_size))))


def attend(block: AttentionAdapter, heads: tuple[Tensor, Tensor, Tensor], bias: Tensor) -> Tensor:
    """Compute scaled cosine attention within the windows of a block, and the output projection.

    Args:
        block: an adapter with the window and the shift.
        heads: query, key and value, `[B, H, W, nh, hd]`.
        bias: of `window_attention`.
    """
    attn: Upstream = block.attn
    query, key, value = heads
    query, key = scaled_cosine(query, key, attn.logit_scale)
    out = window_attention(
        query.to(value.dtype),  # autocast normalizes in float32
        key.to(value.dtype),
        value,
        block.window_size,
        shift_size=block.shift_size,
        bias=bias.to(value.dtype),
        scale=1.0,
        backend=block.backend,
    )
    return attn.proj_drop(dense(attn.proj, out.flatten(-2)))


class WindowAttentionFold(SeparateBiasFold):
    """Fold the separate biases of `WindowAttention` into its `qkv`."""

    upstream_classes = (WINDOW_ATTENTION,)
