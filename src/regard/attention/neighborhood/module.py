"""Neighborhood attention as modules, with the parameters of NATTEN 0.14, which the published checkpoints hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from regard.attention import checks
from regard.attention._backend import Backend, BackendModule
from regard.attention.grid import at_least, crop_grid, pad_grid
from regard.attention.neighborhood.function import neighborhood_attention, neighborhood_weights
from regard.dense import dense


class NeighborhoodAttention(BackendModule):
    """Base class of the modules for 1-D, 2-D and 3-D grids; see `NeighborhoodAttention2d`."""

    axes: ClassVar[int]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int | Sequence[int],
        *,
        dilation: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        small_grid: Literal["error", "pad"] = "error",
        backend: Backend = None,
    ) -> None:
        super().__init__(backend)
        self.head_dim = checks.head_dim(dim, num_heads)
        self.num_heads = num_heads
        self.scale = checks.scale_of(torch.empty(0, self.head_dim), scale)
        self.kernel_size = checks.per_axis("kernel_size", kernel_size, self.axes, minimum=1)
        self.dilation = checks.per_axis("dilation", dilation, self.axes, minimum=1)
        self.stride = checks.per_axis("stride", stride, self.axes, minimum=1)
        self.is_causal = checks.flags_per_axis("is_causal", is_causal, self.axes)
        checks.check_word("small_grid", small_grid, ("error", "pad"))
        self.small_grid = small_grid
        checks.check_probability("attn_drop", attn_drop)
        self.attn_drop = attn_drop
        checks.check_probability("proj_drop", proj_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpb: nn.Parameter | None
        if rel_pos_bias:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * kernel - 1 for kernel in self.kernel_size)))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        else:
            self.register_parameter("rpb", None)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        query, key, value = self._project(x)
        out = neighborhood_attention(
            query,
            key,
            value,
            self.kernel_size,
            dilation=self.dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            bias=self._bias(query),
            scale=self.scale,
            dropout_p=self._dropout_p(),
            backend=self.backend,
        )
        out = crop_grid(out, x.shape[1:-1]) if self.small_grid == "pad" else out
        return self.proj_drop(dense(self.proj, out.flatten(-2)))  # [B, *grid, C]

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights that `forward` applies to an input, without dropout; see `neighborhood_weights`."""
        query, key, _ = self._project(x)
        weights = neighborhood_weights(
            query,
            key,
            self.kernel_size,
            dilation=self.dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            bias=self._bias(query),
            scale=self.scale,
        )
        return crop_grid(weights, x.shape[1:-1]) if self.small_grid == "pad" else weights

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        checks.check_input(x, (self.axes + 2,), f"[B, {self.axes} grid axes, C]", self.qkv.weight)
        if self.small_grid == "pad":  # before the projection: a padded key is the projection's bias
            extent = [size * step for size, step in zip(self.kernel_size, self.dilation, strict=True)]
            x = pad_grid(x, at_least(x.shape[1:-1], extent))
        return dense(self.qkv, x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)

    def _dropout_p(self) -> float:
        return self.attn_drop if self.training else 0.0

    def _bias(self, query: Tensor) -> Tensor | None:
        return None if self.rpb is None else self.rpb.to(query.dtype)

    def extra_repr(self) -> str:
        """Describe the options that the parameters' shapes do not show."""
        return (
            f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"stride={self.stride}, is_causal={self.is_causal}, small_grid={self.small_grid!r}"
        )


class NeighborhoodAttention1d(NeighborhoodAttention):
    """Multi-head neighborhood attention over `[B, L, C]`. See `NeighborhoodAttention2d`.

    Example:
        >>> NeighborhoodAttention1d(32, num_heads=2, kernel_size=7)(torch.randn(1, 50, 32)).shape
        torch.Size([1, 50, 32])
    """

    axes = 1


class NeighborhoodAttention2d(NeighborhoodAttention):
    """Multi-head neighborhood attention over `[B, H, W, C]`.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        kernel_size: keys per axis.
        dilation: distance between neighboring keys, per axis.
        stride: runs of this many queries share a window, per axis.
        is_causal: whether keys after the query are hidden, per axis.
        qkv_bias: whether the input projection has a bias.
        rel_pos_bias: whether a relative bias table `rpb`, `[nh, 2 * kh - 1, 2 * kw - 1]`, is learned.
        scale: factor on the dot products, head_dim ** -0.5 if None.
        attn_drop: dropout of attention weights, in training; the fused kernels have none.
        proj_drop: dropout of the output.
        small_grid: "pad" appends zeros on the right and at the bottom of a grid smaller than the window, before the
            projection, and crops after it, as NATTEN up to 0.15 did and the NAT checkpoints expect; "error" raises.
        backend: see `neighborhood_attention`.

    Source:
        `NeighborhoodAttention2D` of NATTEN 0.14.6 (SHI-Labs/NATTEN): same parameters, same arithmetic.

    Example:
        >>> NeighborhoodAttention2d(64, num_heads=2, kernel_size=7)(torch.randn(1, 14, 14, 64)).shape
        torch.Size([1, 14, 14, 64])
    """

    axes = 2


class NeighborhoodAttention3d(NeighborhoodAttention):
    """Multi-head neighborhood attention over `[B, D, H, W, C]`. See `NeighborhoodAttention2d`.

    Example:
        >>> NeighborhoodAttention3d(32, num_heads=2, kernel_size=(3, 5, 5))(torch.randn(1, 4, 8, 8, 32)).shape
        torch.Size([1, 4, 8, 8, 32])
    """

    axes = 3
