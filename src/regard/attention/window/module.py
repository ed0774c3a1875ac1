"""Window attention as a module, with Swin's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.grid import crop_grid, pad_grid, whole_windows
from regard.attention.window.arguments import check_small_grid, check_window
from regard.attention.window.function import window_attention, window_weights
from regard.dense import dense


class WindowAttention(BackendModule):
    """Multi-head window attention over `[B, *grid, C]`, `[B, H, W, C]` where `window_size` is one number.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        window_size: tokens per axis; the number of axes is its length, one number means a square in 2-D.
        shift_size: where the first whole window begins, per axis. Swin shifts every second block by half a window,
            and not at all where one window covers the grid: that is the model's choice, not made here.
        qkv_bias: whether the input projection has a bias.
        attn_drop: dropout of attention weights, in training; the fused kernels have none.
        proj_drop: dropout of the output.
        small_grid: "pad" lets zeros fill a grid smaller than the window; "error" raises. A larger grid that is no
            multiple of the window is always padded. Zeros are appended before the projection: a padded key is its bias.
        backend: see `window_attention`.

    The parameter `relative_position_bias_table`, `[prod(2 * w - 1), nh]`, is in Swin's order, query minus key.

    Source:
        `WindowAttention` and `_attn` of the block in timm/models/swin_transformer.py (huggingface/pytorch-image-models
        1.0): same parameters; same arithmetic where the grid is a multiple of the window.

    Example:
        >>> WindowAttention(64, num_heads=2, window_size=7, shift_size=3)(torch.randn(1, 14, 14, 64)).shape
        torch.Size([1, 14, 14, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | Sequence[int] = 7,
        *,
        shift_size: int | Sequence[int] = 0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        small_grid: Literal["error", "pad"] = "error",
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        axes = len(checks.check_grid(window_size)) if isinstance(window_size, Sequence) else 2
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        self.window_size, self.shift_size = check_window(axes, window_size, shift_size)
        checks.check_word("small_grid", small_grid, ("error", "pad"))
        self.small_grid = small_grid
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        offsets = math.prod(2 * size - 1 for size in self.window_size)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        query, key, value = self._project(x)
        out = window_attention(
            query,
            key,
            value,
            self.window_size,
            shift_size=self.shift_size,
            bias=self.relative_bias().to(query.dtype),
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(dense(self.proj, crop_grid(out, x.shape[1:-1]).flatten(-2)))  # [B, *grid, C]

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights that `forward` applies to an input, without dropout; see `window_weights`."""
        query, key, _ = self._project(x)
        bias = self.relative_bias().to(query.dtype)
        return window_weights(query, key, self.window_size, shift_size=self.shift_size, bias=bias)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        axes = len(self.window_size)
        checks.check_input(x, (axes + 2,), f"[B, {axes} grid axes, C]", self.qkv.weight)
        check_small_grid(x.shape[1:-1], self.window_size, self.small_grid)
        x = pad_grid(x, whole_windows(x.shape[1:-1], self.window_size))  # a padded key is the projection's bias
        return dense(self.qkv, x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)

    def relative_bias(self) -> Tensor:
        """Convert Swin's table, query minus key, to the `bias` of `window_attention`, `[nh, 2 * w - 1, ...]`."""
        table = self.relative_position_bias_table.unflatten(0, [2 * size - 1 for size in self.window_size])
        return table.movedim(-1, 0).flip(list(range(1, table.ndim)))

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return (
            f"num_heads={self.num_heads}, window_size={self.window_size}, shift_size={self.shift_size}, "
            f"small_grid={self.small_grid!r}"
        )
