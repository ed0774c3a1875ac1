"""timm's Swin."""

from __future__ import annotations

from torch import Tensor

from regard.attention import window_attention
from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inspection import Upstream, needs_weights
from regard.surgery.layouts import split_qkv, window_bias
from regard.surgery.notes import dropout_note


class SwinTransformerBlock(AttentionAdapter):
    """Adapter of `SwinTransformerBlock`: shift, partition, mask, attention and merging are one call.

    timm shifts the grid and then pads it, regard pads first. The results differ if the grid is not a multiple of the
    window, so such calls run the upstream forward.
    """

    upstream_classes = ("timm.models.swin_transformer.SwinTransformerBlock",)
    mechanism = "window attention"
    required_attributes = ("attn", "window_size", "shift_size", "input_resolution", "_attn")
    inner_attention = ("attn", "timm.models.swin_transformer.WindowAttention")

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout, and a grid that is no multiple of the window."""
        return "; ".join(
            filter(
                None, (dropout_note(module.attn.attn_drop), ragged_note(module.input_resolution, module.window_size))
            )
        )

    def _attn(self, x: Tensor) -> Tensor:
        attn: Upstream = self.attn
        if self.runs_upstream(
            {
                "its grid is no multiple of the window": is_ragged(x.shape[1:3], self.window_size),
                "its attn_drop needs the attention weights": needs_weights(attn.attn_drop),
                "its attn has hooks": has_hooks(attn),
            }
        ):
            return super()._attn(x)  # type: ignore[misc]  # the upstream class has it
        query, key, value = split_qkv(dense(attn.qkv, x), attn.num_heads)
        out = window_attention(
            query,
            key,
            value,
            self.window_size,
            shift_size=self.shift_size,
            bias=window_bias(attn.relative_position_bias_table, self.window_size).to(query.dtype),
            scale=attn.scale,
            backend=self.backend,
        )
        return attn.proj_drop(dense(attn.proj, out.flatten(-2)))


def is_ragged(grid: tuple[int, ...], window_size: tuple[int, ...]) -> bool:
    """Whether a grid is no multiple of the window."""
    return any(length % size for length, size in zip(grid, window_size, strict=True))


def ragged_note(grid: tuple[int, ...], window_size: tuple[int, ...]) -> str:
    """Return that a grid which is no multiple of the window will run the upstream forward; nothing if it is one."""
    ragged = is_ragged(grid, window_size)
    return "a grid that is no multiple of the window runs as before" if ragged else ""
