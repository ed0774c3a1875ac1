"""NATTEN's modules: arguments of every version since 0.14.5, one set of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from regard.attention import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    checks,
)
from regard.attention.neighborhood.module import NeighborhoodAttention
from regard.compat.natten._unfused import Flags, Sizes, check_window
from regard.compat.natten.functional import check_named
from regard.errors import ShapeError, UnsupportedError

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]

UNSET: Any = object()  # None is a value of is_causal in NATTEN 0.17


class _Interface(NeighborhoodAttention):
    """Reads the arguments of two generations of NATTEN."""

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        kernel_size: Sizes | None = None,
        *unnamed: int,
        kernel_size_d: int | None = None,
        embed_dim: int | None = None,
        stride: Sizes | None = None,
        dilation: Sizes | None = None,
        dilation_d: int | None = None,
        is_causal: Flags | None = UNSET,
        bias: bool | None = None,
        rel_pos_bias: bool | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_experimental_ops: bool | None = None,
    ) -> None:
        _check_unnamed(unnamed, self.axes)
        _check_flags(bias=bias, rel_pos_bias=rel_pos_bias, qkv_bias=qkv_bias)
        dim = _one_of(dim=dim, embed_dim=embed_dim)
        if dim is None or num_heads is None or kernel_size is None:
            raise TypeError(
                f"dim (or embed_dim), num_heads and kernel_size are required, got {dim}, {num_heads} and {kernel_size}"
            )
        if dilation is None:
            dilation = unnamed[0] if unnamed else 1  # ones, whichever name they go by
        kernels = checks.per_axis("kernel_size", kernel_size, self.axes, minimum=1)
        steps = checks.per_axis("dilation", dilation, self.axes, minimum=1)
        is_newer = _is_newer(
            older={"bias": bias, "kernel_size_d": kernel_size_d, "dilation_d": dilation_d},
            newer={
                "embed_dim": embed_dim,
                "stride": stride,
                "is_causal": None if is_causal is UNSET else "given",
                "rel_pos_bias": rel_pos_bias,
                "use_experimental_ops": use_experimental_ops,
                "a kernel_size per axis": kernel_size if isinstance(kernel_size, Iterable) else None,
                "a dilation per axis": dilation if isinstance(dilation, Iterable) else None,
                "an even kernel_size": kernel_size if any(size % 2 == 0 for size in kernels) else None,
            },
        )
        super().__init__(
            dim,
            num_heads,
            self._with_depth("kernel_size_d", kernel_size_d, kernels),
            dilation=self._with_depth("dilation_d", dilation_d, steps),
            stride=1 if stride is None else stride,
            is_causal=False if is_causal is UNSET or is_causal is None else is_causal,
            qkv_bias=qkv_bias,
            rel_pos_bias=bool(rel_pos_bias) if is_newer else bias is None or bias,
            scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            small_grid="error" if is_newer else "pad",
        )
        if not math.isfinite(self.scale):
            raise ShapeError(f"qk_scale must be finite, got {qk_scale}; leave it out for head_dim ** -0.5")
        self.attn_drop = nn.Dropout(attn_drop)  # type: ignore[assignment]  # NATTEN's is a layer

    @property
    def window_size(self) -> int:
        """The span of the window, as in NATTEN up to 0.15: kernel_size * dilation, of 3-D modules without depth."""
        return self.kernel_size[-1] * self.dilation[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Attend over a grid, `[B, *grid, C]` to the same shape."""
        if self.small_grid == "error" and isinstance(x, Tensor) and x.ndim == self.axes + 2:
            check_window(x.shape[1:-1], self.kernel_size, self.dilation)  # NATTEN's remedy differs
        return super().forward(x)

    def _dropout_p(self) -> float:
        layer: Any = self.attn_drop
        return layer.p if layer.training else 0.0

    def _with_depth(self, name: str, depth: int | None, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if depth is None:
            return sizes
        if self.axes < 3:
            raise TypeError(f"{name} is an argument of NeighborhoodAttention3D, got {depth}; leave it out")
        return depth, *sizes[1:]


class NeighborhoodAttention1D(_Interface, NeighborhoodAttention1d):
    """Multi-head neighborhood attention over `[B, L, C]`. See `NeighborhoodAttention2D`.

    Example:
        >>> import torch
        >>> NeighborhoodAttention1D(32, num_heads=2, kernel_size=7)(torch.randn(1, 50, 32)).shape
        torch.Size([1, 50, 32])
    """


class NeighborhoodAttention2D(_Interface, NeighborhoodAttention2d):
    """Multi-head neighborhood attention over `[B, H, W, C]`, with NATTEN's arguments and parameter names.

    Two generations are told apart. `embed_dim`, `stride`, `is_causal`, `rel_pos_bias` or `use_experimental_ops`, and a
    kernel_size or dilation per axis, or an even kernel, mark the arguments of NATTEN 0.17 and later: no relative bias
    unless `rel_pos_bias=True`, and an error where the window exceeds the grid. Without any of them they are those of
    0.14 and 0.15: a relative bias unless `bias=False`, and small inputs padded.

    Args:
        dim: channels C.
        num_heads: heads nh; dim must be divisible by it.
        kernel_size: keys per axis.
        unnamed: refused but for ones: what follows kernel_size is the dilation up to NATTEN 0.17, later the stride.
        kernel_size_d: refused; see `NeighborhoodAttention3D`.
        embed_dim: another name of dim, since NATTEN 0.20.1.
        stride: runs of this many queries share a window, per axis.
        dilation: distance between neighboring keys, per axis; None is 1.
        dilation_d: refused; see `NeighborhoodAttention3D`.
        is_causal: whether keys after the query are hidden, per axis.
        bias: whether a relative bias table `rpb` is learned; up to NATTEN 0.15.
        rel_pos_bias: the same in NATTEN 0.17.
        qkv_bias: whether the input projection has a bias.
        qk_scale: factor on the dot products, head_dim ** -0.5 if None.
        attn_drop: dropout of attention weights, in training.
        proj_drop: dropout of the output.
        use_experimental_ops: ignored; of NATTEN 0.17.4 and 0.17.5.

    Raises:
        ShapeError: sizes that do not fit together, or a scale that is not finite.
        UnsupportedError: bias together with a mark of NATTEN 0.17.
        TypeError: arguments without a name after kernel_size, or of a wrong type.

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
    """Multi-head neighborhood attention over `[B, D, H, W, C]`. See `NeighborhoodAttention2D` for the other arguments.

    Args:
        dim: channels C.
        num_heads: heads nh.
        kernel_size: keys per axis.
        unnamed: refused: what follows kernel_size is kernel_size_d in NATTEN 0.15, the dilation in 0.17, the stride
            since 0.20.
        kernel_size_d: keys along depth, as in NATTEN 0.15; kernel_size if None.
        dilation_d: dilation along depth, as in NATTEN 0.15; dilation if None.
        dilation: distance between neighboring keys, per axis.

    Example:
        >>> import torch
        >>> NeighborhoodAttention3D(32, num_heads=2, kernel_size=5, kernel_size_d=3)(torch.randn(1, 4, 8, 8, 32)).shape
        torch.Size([1, 4, 8, 8, 32])
    """


def _is_newer(older: dict[str, object], newer: dict[str, object]) -> bool:
    """Whether the arguments are those of NATTEN 0.17 and later, by the arguments that only one generation has."""
    before, after = ([name for name, value in names.items() if value is not None] for names in (older, newer))
    if before and after:
        raise UnsupportedError(
            f"NATTEN up to 0.15 has {' and '.join(before)}, later ones have {' and '.join(after)}, pad no input and "
            "have no bias unless rel_pos_bias=True; use one set"
        )
    return bool(after)


def _one_of(dim: int | None, embed_dim: int | None) -> int | None:
    if dim is not None and embed_dim is not None:
        raise TypeError(f"dim and embed_dim are names of one argument, got {dim=} and {embed_dim=}; pass one")
    return embed_dim if dim is None else dim


def _check_unnamed(unnamed: tuple[object, ...], axes: int) -> None:
    if axes < 3:
        check_named(unnamed)
    elif unnamed:
        raise TypeError(
            f"arguments after kernel_size must be named, got {unnamed}: first among them is kernel_size_d in NATTEN "
            "0.15, the dilation in 0.17 and the stride since 0.20; write kernel_size_d=..., dilation=... or stride=..."
        )


def _check_flags(**flags: bool | None) -> None:
    for name, flag in flags.items():
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
