"""Window attention: every query sees the tokens of its window, shifted or not, with a relative bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from regard.attention import checks
from regard.attention._autocast import autocasting
from regard.attention._backend import Backend, choose_backend
from regard.attention._override import overridable
from regard.attention.grid import crop_grid, positions_on, whole_windows
from regard.attention.window import reference
from regard.attention.window.arguments import check_window, prepare
from regard.attention.window.op import OPERATOR


@overridable
@autocasting
def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: int | Sequence[int],
    *,
    shift_size: int | Sequence[int] = 0,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    small_grid: Literal["error", "pad"] = "error",
    backend: Backend = None,
) -> Tensor:
    r"""Attend from every grid position to the positions of its window.

    $$ y_i = \sum_{j \in \mathcal{W}(i)} \mathrm{softmax}_j(s\, q_i \cdot k_j + b_{j - i})\, v_j $$

    Windows tile the grid from its first position, or from `shift_size` on, where the tiles that the borders cut are
    windows of their own. A grid that is not a multiple of the window is first padded with zeros on the right and at
    the bottom: they are keys like any other, unmasked, and are cropped from the output.

    Args:
        query: `[B, *grid, nh, hd]`, a grid of one, two or three axes; may be a strided view.
        key: `[B, *grid, nh, hd]`.
        value: `[B, *grid, nh, hd_v]`.
        window_size: tokens per axis.
        shift_size: where the first whole window begins, less than `window_size`, per axis.
        bias: relative table `[nh, 2 * w - 1, ...]`, one axis per grid axis, indexed by key minus query plus w - 1.
            Added to the scaled logits. Swin's own table is the mirror image, query minus key.
        scale: factor on the dot products, hd ** -0.5 if None.
        dropout_p: probability of dropping an attention weight.
        small_grid: what to do if the grid is smaller than the window: raise an error, or pad with zeros as above.
        backend: None uses the fused kernel if it supports the call, else the reference. "fused" raises an error if it
            does not, and "reference" never uses the kernel.

    Returns:
        `[B, *grid, nh, hd_v]`.

    Raises:
        ShapeError: sizes that do not fit together, or a grid smaller than the window.
        TypeError: integer tensors, mixed devices, or mixed dtypes outside of autocast.
        UnsupportedError: `backend="fused"` and no fused kernel supports the call.

    Cost:
        2 * B * nh * N * T * (hd + hd_v) FLOPs for N padded grid positions and windows of T tokens. The reference stores
        B * nh * N * T weights, the fused kernel those of one window and head per thread.

    Precision:
        The reference computes in the inputs' dtype; the fused kernel in float32 for 16-bit inputs. Tokens of different
        windows weigh exactly 0; the authors add -100 to their logits instead, equal in float32 unless logits differ by
        dozens.

    Source:
        Swin Transformer (arXiv 2103.14030, section 3.2); microsoft/Swin-Transformer, models/swin_transformer.py. Pads,
        then shifts, as its detection code, Hugging Face transformers and torchvision do; timm shifts first.

    Example:
        >>> q, k, v = torch.randn(3, 1, 14, 14, 2, 16).unbind()
        >>> window_attention(q, k, v, window_size=7, shift_size=3).shape
        torch.Size([1, 14, 14, 2, 16])
    """
    arguments, reasons = prepare(
        query,
        key,
        value,
        window_size,
        shift_size=shift_size,
        bias=bias,
        scale=scale,
        dropout_p=dropout_p,
        small_grid=small_grid,
    )
    if choose_backend(backend, reasons) == "fused":
        out = OPERATOR(*arguments[:-1])
    else:
        out = reference.window_attention(*arguments)
    return crop_grid(out, query.shape[1:-2])


@autocasting
def window_weights(
    query: Tensor,
    key: Tensor,
    window_size: int | Sequence[int],
    *,
    shift_size: int | Sequence[int] = 0,
    bias: Tensor | None = None,
    scale: float | None = None,
    small_grid: Literal["error", "pad"] = "error",
) -> Tensor:
    """Return the attention weights that `window_attention` applies, for the same arguments.

    Returns:
        `[B, *n_windows, nh, T, T]`: the windows of the padded grid, rolled backwards by `shift_size`, and their
        T = prod(window_size) tokens in row-major order; each row sums to 1.

    Example: a grid of 10 x 10 is padded to 14 x 14.
        >>> q, k = torch.randn(2, 1, 10, 10, 2, 8).unbind()
        >>> window_weights(q, k, window_size=7).shape
        torch.Size([1, 2, 2, 2, 49, 49])
    """
    arguments, _ = prepare(
        query, key, key, window_size, shift_size=shift_size, bias=bias, scale=scale, small_grid=small_grid
    )
    return reference.window_weights(arguments.query, arguments.key, *arguments[3:-1])


def window_bias_index(window_size: Sequence[int]) -> Tensor:
    """Return the index into a flattened relative bias table for every query and key of a window.

    `table.flatten(1)[:, index]` is the bias of `window_attention`, `[nh, T, T]`. The index grows with key minus query;
    it is the transpose of Swin's `relative_position_index`, which grows with query minus key.

    Args:
        window_size: tokens per axis, one number for each.

    Returns:
        int64, `[T, T]`, T = prod(window_size) tokens in row-major order.

    Example: the first of three tokens sees offsets 0, 1, 2 of -2 ... 2.
        >>> window_bias_index((3,)).tolist()
        [[2, 3, 4], [1, 2, 3], [0, 1, 2]]
    """
    window = checks.check_grid(window_size)
    return reference.window_bias_index(window, torch.device("cpu"))


def window_tokens(
    window_size: int | Sequence[int], grid: Sequence[int], *, shift_size: int | Sequence[int] = 0
) -> Tensor:
    """Return which positions every window holds, in the order of `window_weights`.

    Args:
        window_size: tokens per axis.
        grid: lengths of the axes; need not be multiples of the window.
        shift_size: where the first whole window begins, per axis.

    Returns:
        int64, `[*n_windows, T]`, positions in row-major order of the grid; -1 for those that padding has added. The
        last windows of a shifted grid hold what the borders have cut, from both sides; these do not see each other.

    Example:
        >>> window_tokens(2, (2, 3)).tolist()
        [[[0, 1, 3, 4], [2, -1, 5, -1]]]
    """
    axes = len(checks.check_grid(grid))
    window, shift = check_window(axes, window_size, shift_size)
    padded = whole_windows(grid, window)
    positions = positions_on(grid, padded).reshape(1, *padded, 1, 1)
    return reference.partition(positions, window, shift)[0, ..., 0, :, 0]
