"""torchvision's Swin and Swin V2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import window_attention
from regard.attention.grid import crop_grid, pad_grid, whole_windows
from regard.dense import dense
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inspection import Upstream, is_plain
from regard.surgery.layouts import (
    continuous_window_bias,
    project_with_bias,
    scaled_cosine,
    split_qkv,
    window_bias,
)
from regard.surgery.notes import dropout_note, mask_note

Project = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

WINDOWED = ("qkv", "proj", "num_heads", "window_size", "shift_size", "attention_dropout", "dropout")
"""Attributes of all three classes of window attention."""


class ShiftedWindowAttention(AttentionAdapter):
    """Adapter of `ShiftedWindowAttention`.

    Calls run the upstream forward in training with attention dropout, and if a projection is not a plain dense layer,
    because torchvision reads the weights and does not call the layer.
    """

    upstream_classes = ("torchvision.models.swin_transformer.ShiftedWindowAttention",)
    mechanism = "window attention"
    required_attributes = (*WINDOWED, "relative_position_bias_table")

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout."""
        return dropout_note(module.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, H, W, C]`."""
        if self.runs_upstream(obstacles(self)):
            return super().forward(x)
        window = tuple(self.window_size)
        bias = window_bias(self.relative_position_bias_table, window)
        return attend(self, x, window, bias, lambda x: split_qkv(dense(self.qkv, x), self.num_heads))


class ShiftedWindowAttentionV2(AttentionAdapter):
    """Adapter of `ShiftedWindowAttentionV2`, with scaled cosines and the bias from an MLP.

    Calls run the upstream forward for the reasons of `ShiftedWindowAttention`.
    """

    upstream_classes = ("torchvision.models.swin_transformer.ShiftedWindowAttentionV2",)
    mechanism = "window attention"
    required_attributes = (*WINDOWED, "logit_scale", "cpb_mlp", "relative_coords_table")

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Note an attention dropout, and a mask that may not hide."""
        notes = (dropout_note(module.attention_dropout), mask_note(module.logit_scale, tuple(module.shift_size)))
        return "; ".join(filter(None, notes))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `[B, H, W, C]`."""
        if self.runs_upstream(obstacles(self)):
            return super().forward(x)
        window = tuple(self.window_size)
        bias = continuous_window_bias(self.cpb_mlp, self.relative_coords_table, window)
        return attend(self, x, window, bias, self._project_to_cosines, scale=1.0)

    def _project_to_cosines(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.qkv.bias
        if bias is not None:  # the key has none, whatever the layer says
            query_bias, key_bias, value_bias = bias.chunk(3)
            bias = torch.cat((query_bias, torch.zeros_like(key_bias), value_bias))
        query, key, value = split_qkv(project_with_bias(self.qkv, x, bias), self.num_heads)
        query, key = scaled_cosine(query, key, self.logit_scale)
        return query.to(value.dtype), key.to(value.dtype), value  # autocast normalizes in float32


def obstacles(module: Upstream) -> dict[str, object]:
    """Return the reasons against regard's functions, each with whether it holds."""
    return {
        "it drops attention weights in training": module.training and module.attention_dropout,
        "its qkv is not a plain dense layer": not is_plain(module.qkv, nn.Linear),
        "its proj is not a plain dense layer": not is_plain(module.proj, nn.Linear),
    }


def attend(
    module: AttentionAdapter,
    x: Tensor,
    window_size: tuple[int, ...],
    bias: Tensor,
    project: Project,
    scale: float | None = None,
) -> Tensor:
    """Pad `[B, *grid, C]`, attend within windows, crop and project.

    Args:
        module: an adapter of one of torchvision's classes.
        x: padded before the projection, so that a padded key is the projection's bias.
        window_size: tokens per axis. An axis that has no more tokens is not shifted.
        bias: of `window_attention`.
        project: returns query, key and value, `[B, *grid, nh, hd]`.
        scale: of `window_attention`.
    """
    grid = x.shape[1:-1]
    sizes = zip(module.shift_size, window_size, grid, strict=True)
    query, key, value = project(pad_grid(x, whole_windows(grid, window_size)))
    out = window_attention(
        query,
        key,
        value,
        window_size,
        shift_size=[0 if size >= length else shift for shift, size, length in sizes],
        bias=bias.to(query.dtype),
        scale=scale,
        backend=module.backend,
    )
    out = dense(module.proj, crop_grid(out, grid).flatten(-2))
    return F.dropout(out, module.dropout, module.training)
