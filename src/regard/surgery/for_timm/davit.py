"""timm's DaViT: the blocks that attend within windows. Those that attend over channels are no mechanism of regard."""

from __future__ import annotations

from torch import Tensor

from regard.attention import window_attention
from regard.attention.grid import crop_grid, pad_grid, whole_windows
from regard.dense import dense, has_hooks
from regard.surgery.adapter import AttentionAdapter
from regard.surgery.inspection import Upstream
from regard.surgery.layouts import split_qkv


class SpatialBlock(AttentionAdapter):
    """Adapter of `SpatialBlock`: partition, attention and merging are one call."""

    upstream_classes = ("timm.models.davit.SpatialBlock",)
    mechanism = "window attention"
    required_attributes = ("attn", "window_size", "cpe1", "norm1", "drop_path1", "cpe2", "norm2", "mlp", "drop_path2")
    inner_attention = ("attn", "timm.models.davit.WindowAttention")

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        attn: Upstream = self.attn
        if self.runs_upstream(
            {"its attn has hooks": has_hooks(attn), "its softmax has hooks": has_hooks(attn.softmax)}
        ):
            return super().forward(x)
        grid = x.shape[2:]
        tokens = _to_tokens(self.cpe1(x))
        out = self._attend(self.norm1(tokens).unflatten(1, grid)).flatten(1, 2)
        x = self.cpe2(_to_image(tokens + self.drop_path1(out), grid))
        if self.mlp is None:
            return x
        tokens = _to_tokens(x)
        return _to_image(tokens + self.drop_path2(self.mlp(self.norm2(tokens))), grid)

    def _attend(self, x: Tensor) -> Tensor:
        attn, window, grid = self.attn, self.window_size, x.shape[1:3]
        x = pad_grid(x, whole_windows(grid, window))  # before the projection: a padded key is its bias
        query, key, value = split_qkv(dense(attn.qkv, x), attn.num_heads)
        out = window_attention(query, key, value, window, scale=attn.scale, backend=self.backend)
        return dense(attn.proj, crop_grid(out, grid).flatten(-2))


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # [B, N, C]


def _to_image(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)  # [B, C, H, W]
