"""The functions of `natten.functional`: the unfused ones that NATTEN removed, and the fused ones that it has.

`*qk*` and `*av*` are heads first, `[B, nh, *grid, hd]`, and hold gathered keys and values: nh * N * K * hd numbers an
image. `na1d`, `na2d` and `na3d` are heads last, `[B, *grid, nh, hd]`, and fused where a kernel serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps

from torch import Tensor

from regard.attention import checks, neighborhood_attention
from regard.compat.natten._historic import (
    na1d_qk_with_bias,
    na2d_qk_with_bias,
    na3d_qk_with_bias,
    natten1dav,
    natten1dqk,
    natten1dqkrpb,
    natten2dav,
    natten2dqk,
    natten2dqkrpb,
    natten3dav,
    natten3dqk,
    natten3dqkrpb,
    or_depth_apart,
)
from regard.compat.natten._unfused import Flags, Sizes, av, check_window, qk, refuse
from regard.errors import UnsupportedError

__all__ = [
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na1d_qk_with_bias",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na2d_qk_with_bias",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "na3d_qk_with_bias",
    "natten1dav",
    "natten1dqk",
    "natten1dqkrpb",
    "natten2dav",
    "natten2dqk",
    "natten2dqkrpb",
    "natten3dav",
    "natten3dqk",
    "natten3dqkrpb",
    "neighborhood_attention_generic",
]

# What tells NATTEN how to compute, never what: taken and ignored.
PERFORMANCE = frozenset(
    {
        "attention_kwargs",
        "backend",
        "backward_kv_splits",
        "backward_kv_tile_shape",
        "backward_q_tile_shape",
        "backward_use_pt_reduction",
        "kernel_schedule",
        "kv_tile_shape",
        "q_tile_shape",
        "run_persistent_kernel",
        "torch_compile",
        "try_fuse_additional_kv",
        "xformers_kwargs",
    }
)
PERFORMANCE_NESTED = frozenset(  # in attention_kwargs: there, tiles are of one size
    {
        "backend",
        "backward_kv_splits",
        "backward_kv_tile_size",
        "backward_q_tile_size",
        "backward_use_pt_reduction",
        "kernel_schedule",
        "kv_tile_size",
        "q_tile_size",
        "run_persistent_kernel",
        "torch_compile",
    }
)


def neighborhood_attention_generic(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    *unnamed: object,
    stride: Sizes = 1,
    dilation: Sizes | None = 1,
    is_causal: Flags | None = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    return_lse: bool = False,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    **performance: object,
) -> Tensor:
    """Attend to neighborhoods on a grid of one, two or three axes; `na1d`, `na2d` and `na3d` are this.

    Args:
        query: `[B, *grid, nh, hd]`.
        key: `[B, *grid, nh, hd]`.
        value: `[B, *grid, nh, hd_v]`.
        kernel_size: keys per axis.
        unnamed: refused but for ones: what follows kernel_size is the dilation in NATTEN 0.17, the stride since 0.20.
        stride: see `regard.neighborhood_attention`; since NATTEN 0.20.
        dilation: distance between neighboring keys; None is 1.
        is_causal: whether keys after the query are hidden, per axis.
        scale: factor on the dot products, hd ** -0.5 if None.
        rpb: relative table `[nh, 2 * k - 1, ...]`, up to NATTEN 0.17; with its gradient, and causal axes if you like.
        return_lse: refused if True.
        additional_keys: refused.
        additional_values: refused.
        performance: NATTEN's arguments for backends and tile shapes, ignored.

    Returns:
        `[B, *grid, nh, hd_v]`.

    Raises:
        ShapeError: sizes that do not fit together, or a grid smaller than the window.
        UnsupportedError: return_lse or additional keys and values.
        TypeError: arguments without a name after kernel_size, or of an unknown name.

    Source:
        `natten.functional` of NATTEN 0.17 to 0.21 (SHI-Labs/NATTEN).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 14, 14, 2, 16).unbind()
        >>> na2d(q, k, v, kernel_size=7, dilation=2, backend="flex-fna").shape
        torch.Size([1, 14, 14, 2, 16])
    """
    check_named(unnamed)
    _check_performance(performance)
    refuse(additional_keys=additional_keys, additional_values=additional_values)
    if return_lse:
        raise UnsupportedError("regard.compat.natten returns no log-sum-exp; leave return_lse out")
    checks.check_tensors({"query": query})
    checks.check_tensors({"rpb": rpb})
    checks.check_grid_tensor("query", query, (4, 5, 6), checks.LAYOUT)
    window = check_window(query.shape[1:-2], kernel_size, dilation, is_causal, stride)
    return neighborhood_attention(
        query,
        key,
        value,
        window.kernel_size,
        dilation=window.dilation,
        stride=window.stride,
        is_causal=window.is_causal,
        bias=None if rpb is None else rpb.to(query.dtype),
        scale=scale,
    )


def _of_rank(rank: int, layout: str) -> Callable[..., Tensor]:
    generic: Callable[..., Tensor] = neighborhood_attention_generic

    @wraps(generic, assigned=("__module__",))  # its signature
    def attend(query: Tensor, *arguments: object, **options: object) -> Tensor:
        _check_rank(rank, query)
        return generic(query, *arguments, **options)

    attend.__name__ = attend.__qualname__ = f"na{rank}d"
    attend.__doc__ = f"Attend on `{layout}`; see `neighborhood_attention_generic` for the options."
    return attend


na1d = _of_rank(1, "[B, L, nh, hd]")
na2d = _of_rank(2, "[B, H, W, nh, hd]")
na3d = _of_rank(3, "[B, D, H, W, nh, hd]")


def na1d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_keys: Tensor | None = None,
    is_causal: Flags | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, L, hd]`; see `na2d_qk`."""
    refuse(additional_keys=additional_keys)
    return qk(1, query, key, rpb, kernel_size, dilation, is_causal)


def na2d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_keys: Tensor | None = None,
    is_causal: Flags | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """Return the logits of every query's neighborhood. The query is not scaled here.

    Args:
        query: `[B, nh, H, W, hd]`.
        key: `[B, nh, H, W, hd]`.
        kernel_size: keys per axis.
        dilation: distance between neighboring keys; None is 1.
        additional_keys: refused.
        is_causal: whether keys after the query are hidden, per axis; their logits are -inf.
        rpb: relative table `[nh, 2 * kh - 1, 2 * kw - 1]`, indexed by key minus query.

    Returns:
        `[B, nh, H, W, kh * kw]`, the window in row-major order.

    Raises:
        ShapeError: sizes that do not fit together, or a grid smaller than the window.
        UnsupportedError: additional keys.

    Source:
        `natten.functional` of NATTEN 0.15 to 0.17 (SHI-Labs/NATTEN).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 2, 14, 14, 16).unbind()
        >>> weights = na2d_qk(q * 16**-0.5, k, kernel_size=7).softmax(-1)
        >>> weights.shape, na2d_av(weights, v, kernel_size=7).shape
        (torch.Size([1, 2, 14, 14, 49]), torch.Size([1, 2, 14, 14, 16]))
    """
    refuse(additional_keys=additional_keys)
    return qk(2, query, key, rpb, kernel_size, dilation, is_causal)


@or_depth_apart(natten3dqk)
def na3d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_keys: Tensor | None = None,
    is_causal: Flags | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, D, H, W, hd]`; see `na2d_qk`. Takes the sizes of `natten3dqk`, too."""
    refuse(additional_keys=additional_keys)
    return qk(3, query, key, rpb, kernel_size, dilation, is_causal)


def na1d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_values: Tensor | None = None,
    is_causal: Flags | None = False,
) -> Tensor:
    """Sum values `[B, nh, L, hd]` under weights `[B, nh, L, K]`; see `na2d_qk`."""
    refuse(additional_values=additional_values)
    return av(1, attn, value, kernel_size, dilation, is_causal)


def na2d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_values: Tensor | None = None,
    is_causal: Flags | None = False,
) -> Tensor:
    """Sum values `[B, nh, H, W, hd]` under weights `[B, nh, H, W, K]`; see `na2d_qk`."""
    refuse(additional_values=additional_values)
    return av(2, attn, value, kernel_size, dilation, is_causal)


@or_depth_apart(natten3dav)
def na3d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    dilation: Sizes | None = 1,
    additional_values: Tensor | None = None,
    is_causal: Flags | None = False,
) -> Tensor:
    """Sum values `[B, nh, D, H, W, hd]` under `[B, nh, D, H, W, K]`. Takes the sizes of `natten3dav`, too."""
    refuse(additional_values=additional_values)
    return av(3, attn, value, kernel_size, dilation, is_causal)


def check_named(unnamed: tuple[object, ...]) -> None:
    """Refuse positional options, whose meaning differs between versions of NATTEN; ones are the same under each."""
    if unnamed and not (len(unnamed) == 1 and _are_ones(unnamed[0])):
        raise TypeError(
            f"arguments after kernel_size must be named, got {unnamed}: first among them is the dilation in NATTEN up "
            "to 0.17 and the stride since 0.20; write dilation=... or stride=..."
        )


def _are_ones(sizes: object) -> bool:
    each = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    return bool(each) and all(size == 1 and not isinstance(size, bool) for size in each)


def _check_performance(given: dict[str, object]) -> None:
    nested = given.get("attention_kwargs")
    for names, ignored in ((given, PERFORMANCE), (nested if isinstance(nested, dict) else {}, PERFORMANCE_NESTED)):
        if unknown := sorted(set(names) - ignored):
            raise TypeError(f"unknown arguments {', '.join(unknown)}; ignored are {', '.join(sorted(ignored))}")


def _check_rank(rank: int, query: Tensor) -> None:
    if isinstance(query, Tensor):
        checks.check_grid_tensor("query", query, (rank + 3,), f"[B, {rank} grid axes, nh, hd]")
