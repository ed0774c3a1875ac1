"""What NATTEN removed before 0.20: `natten*d*` (0.14.1 to 0.17.4), and `na*d_qk_with_bias` and 3-D sizes of 0.15."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Integral
from typing import ParamSpec

from torch import Tensor

from regard.attention import checks
from regard.compat.natten._unfused import av, qk, refuse
from regard.errors import ShapeError

P = ParamSpec("P")


def natten1dqkrpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    *sizes: int,
    kernel_size: int | None = None,
    dilation: int | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, L, hd]`; see `natten2dqkrpb`."""
    kernel, step = _sizes(sizes, kernel_size, dilation)
    return qk(1, query, key, rpb, _kernel_of(rpb) if kernel is None else kernel, step)


def natten2dqkrpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    *sizes: int,
    kernel_size: int | None = None,
    dilation: int | None = None,
) -> Tensor:
    """Return the logits of every query's neighborhood, with a relative bias. The query is not scaled here.

    Args:
        query: `[B, nh, H, W, hd]`.
        key: `[B, nh, H, W, hd]`.
        rpb: relative table `[nh, 2 * k - 1, 2 * k - 1]`, or None.
        sizes: kernel_size and dilation, as since NATTEN 0.14.5; or the dilation alone, as before: then the table tells
            the kernel size. (`natten*dav` took the dilation alone up to 0.14.5.)
        kernel_size: by name.
        dilation: by name.

    Returns:
        `[B, nh, H, W, k * k]`.

    Source:
        `natten.functional` of NATTEN 0.14.1 to 0.17.4 (SHI-Labs/NATTEN).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 2, 14, 14, 16).unbind()
        >>> weights = natten2dqkrpb(q * 16**-0.5, k, torch.zeros(2, 13, 13), 7, 2).softmax(-1)
        >>> natten2dav(weights, v, 7, 2).shape
        torch.Size([1, 2, 14, 14, 16])
    """
    kernel, step = _sizes(sizes, kernel_size, dilation)
    return qk(2, query, key, rpb, _kernel_of(rpb) if kernel is None else kernel, step)


def natten1dav(
    attn: Tensor, value: Tensor, *sizes: int, kernel_size: int | None = None, dilation: int | None = None
) -> Tensor:
    """Sum values `[B, nh, L, hd]` under weights `[B, nh, L, k]`; sizes as in `natten2dqkrpb`."""
    kernel, step = _sizes(sizes, kernel_size, dilation)
    return av(1, attn, value, _last("attn", attn) if kernel is None else kernel, step)


def natten2dav(
    attn: Tensor, value: Tensor, *sizes: int, kernel_size: int | None = None, dilation: int | None = None
) -> Tensor:
    """Sum values `[B, nh, H, W, hd]` under weights `[B, nh, H, W, k * k]`; sizes as in `natten2dqkrpb`."""
    kernel, step = _sizes(sizes, kernel_size, dilation)
    return av(2, attn, value, round(_last("attn", attn) ** 0.5) if kernel is None else kernel, step)


def natten1dqk(query: Tensor, key: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Return the logits of `[B, nh, L, hd]`, without a bias."""
    return qk(1, query, key, None, kernel_size, dilation)


def natten2dqk(query: Tensor, key: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Return the logits of `[B, nh, H, W, hd]`, without a bias."""
    return qk(2, query, key, None, kernel_size, dilation)


def natten3dqkrpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    """Return the logits of `[B, nh, D, H, W, hd]`; the sizes along depth are arguments of their own."""
    return qk(3, query, key, rpb, (kernel_size_d, kernel_size, kernel_size), (dilation_d, dilation, dilation))


def natten3dqk(
    query: Tensor,
    key: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, D, H, W, hd]`, without a bias."""
    refuse(additional_keys=additional_keys)
    return natten3dqkrpb(query, key, None, kernel_size_d, kernel_size, dilation_d, dilation)


def natten3dav(
    attn: Tensor,
    value: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_values: Tensor | None = None,
) -> Tensor:
    """Sum values `[B, nh, D, H, W, hd]` under weights `[B, nh, D, H, W, K]`."""
    refuse(additional_values=additional_values)
    return av(3, attn, value, (kernel_size_d, kernel_size, kernel_size), (dilation_d, dilation, dilation))


def na1d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, L, hd]`; `natten1dqkrpb` as NATTEN 0.15 called it."""
    refuse(additional_keys=additional_keys)
    return qk(1, query, key, bias, kernel_size, dilation)


def na2d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, H, W, hd]`; `natten2dqkrpb` as NATTEN 0.15 called it."""
    refuse(additional_keys=additional_keys)
    return qk(2, query, key, bias, kernel_size, dilation)


def na3d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """Return the logits of `[B, nh, D, H, W, hd]`; `natten3dqkrpb` as NATTEN 0.15 called it."""
    refuse(additional_keys=additional_keys)
    return natten3dqkrpb(query, key, bias, kernel_size_d, kernel_size, dilation_d, dilation)


def or_depth_apart(older: Callable[..., Tensor]) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Let a 3-D function of 0.17 take 0.15's sizes too: kernel_size_d, kernel_size, dilation_d, dilation.

    The third size is what tells: a number where 0.17 has additional keys or values.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @wraps(function)
        def either(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            is_older = "kernel_size_d" in kwargs or any(isinstance(size, Integral) for size in args[4:5])
            return older(*args, **kwargs) if is_older else function(*args, **kwargs)

        return either

    return decorate


def _sizes(sizes: tuple[int, ...], kernel_size: int | None, dilation: int | None) -> tuple[int | None, int]:
    """Read (kernel_size, dilation), by place or by name; of the dilation alone, the kernel size is None."""
    names = ["kernel_size", "dilation"] if len(sizes) == 2 or dilation is not None else ["dilation"]
    named = {"kernel_size": kernel_size, "dilation": dilation}
    given = {name: size for name, size in named.items() if size is not None}
    placed = dict(zip(names, sizes, strict=False))
    both = {**placed, **given}
    if len(placed) < len(sizes) or len(both) < len(placed) + len(given) or "dilation" not in both:
        raise TypeError(f"expected kernel_size and dilation, or the dilation alone, got {sizes} and {given}")
    return both.get("kernel_size"), both["dilation"]


def _kernel_of(rpb: Tensor | None) -> int:
    if rpb is None:
        raise ShapeError("without rpb, nothing tells the kernel size; pass kernel_size and dilation")
    return (_last("rpb", rpb) + 1) // 2


def _last(name: str, tensor: Tensor) -> int:
    """Return the length of the last axis, 1 without axes: what is wrong with a shape is said later."""
    checks.check_tensors({name: tensor})
    return tensor.shape[-1:].numel()
