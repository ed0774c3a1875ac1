"""NATTEN's modules: arguments of every version since 0.14.5, one set of parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regard.attention import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    _checks,
    neighborhood_attention,
)
from regard.attention._grid import crop_grid, pad_grid
from regard.attention.neighborhood.module import _NeighborhoodAttention
from regard.compat.natten._unfused import Flags, Sizes, check_window
from regard.compat.natten.functional import check_named
from regard.errors import ShapeError, UnsupportedError

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _Interface(_NeighborhoodAttention):
    """Reads the arguments of two generations of NATTEN and keeps the scale, which ours have no argument for."""

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        kernel_size: Sizes | None = None,
        *unnamed: object,
        embed_dim: int | None = None,
        stride: Sizes | None = None,
        dilation: Sizes | None = None,
        is_causal: Flags | None = None,
        bias: bool | None = None,
        rel_pos_bias: bool | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        check_named(unnamed)
        dim = _one_of(dim=dim, embed_dim=embed_dim)
        if dim is None or num_heads is None or kernel_size is None:
            raise TypeError(
                f"dim (or embed_dim), num_heads and kernel_size are required, got {dim}, {num_heads} and {kernel_size}"
            )
        newer = {"embed_dim": embed_dim, "stride": stride, "is_causal": is_causal, "rel_pos_bias": rel_pos_bias}
        marks = [name for name, value in newer.items() if value is not None]
        if marks and bias is not None:
            raise UnsupportedError(
                f"bias is an argument of NATTEN up to 0.15, {' and '.join(marks)} of later ones, which pad no input "
                "and have no bias unless rel_pos_bias=True; use one set"
            )
        if not marks:
            _check_odd(_checks.per_axis("kernel_size", kernel_size, self.axes, minimum=1))
        super().__init__(
            dim,
            num_heads,
            kernel_size,
            dilation=1 if dilation is None else dilation,
            stride=1 if stride is None else stride,
            is_causal=False if is_causal is None else is_causal,
            qkv_bias=qkv_bias,
            rel_pos_bias=bool(rel_pos_bias) if marks else bias is None or bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            small_grid="error" if marks else "pad",
        )
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        _checks.check_input(x, (self.axes + 2,), f"[B, {self.axes} grid axes, C]", self.qkv.weight)
        grid = x.shape[1:-1]
        if self.small_grid == "pad":  # before the projection, as NATTEN up to 0.15 does
            x = pad_grid(x, [kernel * step for kernel, step in zip(self.kernel_size, self.dilation, strict=True)])
        check_window(x.shape[1:-1], self.kernel_size, self.dilation)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        out = neighborhood_attention(
            query,
            key,
            value,
            self.kernel_size,
            dilation=self.dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            bias=None if self.rpb is None else self.rpb.to(query.dtype),
            scale=self.scale,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        out = self.proj(crop_grid(out, grid).flatten(-2))  # [B, *grid, C]
        return self.proj_drop(out)


class NeighborhoodAttention1D(_Interface, NeighborhoodAttention1d):
    """Multi-head neighborhood attention over `[B, L, C]`. See `NeighborhoodAttention2D`.

    Example:
        >>> import torch
        >>> NeighborhoodAttention1D(32, num_heads=2, kernel_size=7)(torch.randn(1, 50, 32)).shape
        torch.Size([1, 50, 32])
    """


class NeighborhoodAttention2D(_Interface, NeighborhoodAttention2d):
    """Multi-head neighborhood attention over `[B, H, W, C]`, with NATTEN's arguments and parameter names.

    One of `embed_dim`, `stride`, `is_causal` and `rel_pos_bias` marks the arguments of NATTEN 0.17 and later: no
    relative bias unless `rel_pos_bias=True`, and an error where the window exceeds the grid. Without any of them they
    are those of 0.14 and 0.15: a relative bias unless `bias=False`, odd kernels, and small inputs padded.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        kernel_size: keys per axis.
        unnamed: refused: what follows kernel_size is the dilation up to NATTEN 0.17 and the stride since 0.20.
        embed_dim: another name of dim, since NATTEN 0.20.1.
        stride: runs of this many queries share a window, per axis.
        dilation: distance between neighboring keys, per axis; None is 1.
        is_causal: whether keys after the query are hidden, per axis.
        bias: whether a relative bias table `rpb` is learned; up to NATTEN 0.15.
        rel_pos_bias: the same in NATTEN 0.17.
        qkv_bias: whether the input projection has a bias.
        qk_scale: factor on the dot products, head_dim ** -0.5 if None.
        attn_drop: dropout of attention weights, in training.
        proj_drop: dropout of the output.

    Raises:
        ShapeError: sizes that do not fit together; an even kernel without a mark of NATTEN 0.17.
        UnsupportedError: bias together with a mark of NATTEN 0.17.
        TypeError: arguments without a name after kernel_size.

    Source:
        `NeighborhoodAttention2D` of NATTEN 0.14.6, 0.15.1, 0.17.4 and 0.21.6 (SHI-Labs/NATTEN).

    Example:
        >>> import torch
        >>> old = NeighborhoodAttention2D(64, num_heads=2, kernel_size=7, bias=True)
        >>> new = NeighborhoodAttention2D(embed_dim=64, num_heads=2, kernel_size=8, stride=2)
        >>> x = torch.randn(1, 14, 14, 64)
        >>> old(x).shape == new(x).shape == x.shape, old.rpb.shape, new.rpb
        (True, torch.Size([2, 13, 13]), None)
    """


class NeighborhoodAttention3D(_Interface, NeighborhoodAttention3d):
    """Multi-head neighborhood attention over `[B, D, H, W, C]`. See `NeighborhoodAttention2D`.

    Args:
        dim: channels C.
        num_heads: heads nh.
        kernel_size: keys per axis.
        unnamed: refused.
        kernel_size_d: keys along depth, as in NATTEN 0.15; kernel_size if None.
        dilation_d: dilation along depth, as in NATTEN 0.15; dilation if None.
        dilation: distance between neighboring keys, per axis.
        options: the other arguments of `NeighborhoodAttention2D`.

    Example:
        >>> import torch
        >>> NeighborhoodAttention3D(32, num_heads=2, kernel_size=5, kernel_size_d=3)(torch.randn(1, 4, 8, 8, 32)).shape
        torch.Size([1, 4, 8, 8, 32])
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        kernel_size: Sizes | None = None,
        *unnamed: object,
        kernel_size_d: int | None = None,
        dilation_d: int | None = None,
        dilation: Sizes | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if kernel_size_d is not None:
            kernel_size = _with_depth("kernel_size", kernel_size_d, kernel_size)
        if dilation_d is not None:
            dilation = _with_depth("dilation", dilation_d, 1 if dilation is None else dilation)
        super().__init__(dim, num_heads, kernel_size, *unnamed, dilation=dilation, **options)


def _with_depth(name: str, depth: int, rest: Sizes | None) -> tuple[int, int, int]:
    if not isinstance(rest, int):
        raise TypeError(f"{name} must be one whole number beside {name}_d, got {rest!r}; or pass all three as {name}")
    return depth, rest, rest


def _one_of(dim: int | None, embed_dim: int | None) -> int | None:
    if dim is not None and embed_dim is not None:
        raise TypeError(f"dim and embed_dim are names of one argument, got {dim=} and {embed_dim=}; pass one")
    return embed_dim if dim is None else dim


def _check_odd(kernel_size: tuple[int, ...]) -> None:
    if any(size % 2 == 0 for size in kernel_size):
        raise ShapeError(
            f"kernel_size must be odd in NATTEN up to 0.15, got {kernel_size}; for the modules of later ones say "
            "rel_pos_bias=False (or True), or stride=1"
        )
