"""torchvision's video Swin, whose windows have three axes."""

from __future__ import annotations

from torch import Tensor

from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.for_torchvision.swin import WINDOWED, attend, obstacles
from regard.surgery.inspection import Upstream
from regard.surgery.layouts import split_qkv, window_bias
from regard.surgery.notes import dropout_note


class ShiftedWindowAttention3d(AttentionAdapter):
    """Adapter of `ShiftedWindowAttention3d`.

    torchvision shrinks a window to a smaller grid, and then reads the relative table as if the window had only lost
    frames. If it has lost rows or columns, the bias is not relative, and the call runs the upstream forward. So do
    training with attention dropout, and projections that are not plain dense layers.
    """

    upstream_classes = ("torchvision.models.video.swin_transformer.ShiftedWindowAttention3d",)
    mechanism = "window attention"
    required_attributes = (*WINDOWED, "relative_position_bias_table")

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout."""
        return dropout_note(module.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, T, H, W, C]`."""
        frames, *plane = self.window_size
        smaller = any(length < size for length, size in zip(x.shape[2:4], plane, strict=True))
        if self.runs_upstream({**obstacles(self), "its grid is smaller than the window": smaller}):
            return super().forward(x)
        shown = min(frames, x.shape[1])
        bias = window_bias(self.relative_position_bias_table, (frames, *plane))
        bias = bias.narrow(1, frames - shown, 2 * shown - 1)
        return attend(self, x, (shown, *plane), bias, lambda x: split_qkv(dense(self.qkv, x), self.num_heads))
