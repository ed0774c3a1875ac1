"""Operators for inference on packed weights: `regard::dense` (layers.cpp) and `regard::depthwise` (depthwise.cpp)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.native import calls, loader

ACTIVATIONS = ("none", "gelu", "silu")  # as in layer.h

_LIBRARY = torch.library.Library("regard", "FRAGMENT")
_LIBRARY.define(
    "dense(Tensor x, Tensor[] weights, Tensor?[] biases, int width, str activation, Tensor? residual, float epsilon)"
    " -> Tensor"
)
_LIBRARY.define(
    "depthwise(Tensor x, Tensor? weight, Tensor? bias, Tensor taps, Tensor? taps_bias, int size, int stride,"
    " int padding, Tensor[] weights, Tensor?[] biases, int[] widths, str[] activations, bool residual) -> Tensor"
)


class _Problem(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("widths", ctypes.c_int64 * 2),
        ("activation", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("epsilon", ctypes.c_double),
    )


class _DepthwiseProblem(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "height", "width", "channels"),
                *("out_height", "out_width", "size", "stride", "padding"),
            )
        ),
        ("widths", ctypes.c_int64 * 3),
        ("activations", ctypes.c_int64 * 3),
        ("threads", ctypes.c_int64),
    )


def panel_width() -> int:
    """Return the output channels of a panel in this process's library."""
    library = loader.NATIVE.library
    return 0 if library is None else int(library.regard_dense_panel())


def pack(weight: Tensor) -> Tensor:
    """Pack a weight `[out, in]` as the kernel reads it: `[panels, in, panel width]`, padded with zeros."""
    width = panel_width()
    padded = F.pad(weight, (0, 0, 0, -len(weight) % width))
    return padded.unflatten(0, (-1, width)).transpose(1, 2).contiguous()


@torch.library.impl(_LIBRARY, "dense", "CPU")
def dense_layers(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    width: int,
    activation: str,
    residual: Tensor | None,
    epsilon: float,
) -> Tensor:
    """Compute `layer(x) + residual`, or `second(activation(first(x))) + residual`, on float32 tokens.

    Args:
        x: `[..., C]`.
        weights: of one layer or two, packed.
        biases: as many.
        width: channels of the output.
        activation: "none", "gelu" (exact) or "silu", after the first layer.
        residual: `[..., width]`.
        epsilon: of a layer normalization without parameters before the first layer; negative for none.
    """
    channels = x.shape[-1]
    x = x.contiguous()
    out = _empty_output(x, weights, biases, width)
    widths = (weights[1].shape[1], width) if len(weights) == 2 else (width, 0)
    problem = _Problem(
        x.numel() // channels,
        channels,
        (ctypes.c_int64 * 2)(*widths),
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
        epsilon,
    )
    second = (weights[1], biases[1]) if len(weights) == 2 else (None, None)
    residual = None if residual is None else residual.contiguous()
    calls.call("regard_dense", x.dtype, problem, x, weights[0], biases[0], *second, residual, out)
    return out


def _empty_output(x: Tensor, weights: object, biases: object, width: int, *_: object) -> Tensor:
    return x.new_empty(*x.shape[:-1], width)


torch.library.register_fake("regard::dense", _empty_output, lib=_LIBRARY)


@torch.library.impl(_LIBRARY, "depthwise", "CPU")
def depthwise_layers(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    taps: Tensor,
    taps_bias: Tensor | None,
    size: int,
    stride: int,
    padding: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    widths: Sequence[int],
    activations: Sequence[str],
    residual: bool,
) -> Tensor:
    """Compute a block around a depth-wise convolution on float32 images.

    Args:
        x: `[B, H, W, C]`.
        weight: packed, of the dense layer before the convolution, if there is one.
        bias: of that layer.
        taps: of the convolution, `[size * size, channels]`.
        taps_bias: of the convolution.
        size: of the square window.
        stride: of the window.
        padding: zeros on every side.
        weights: packed, of one or two dense layers after the convolution.
        biases: as many.
        widths: channels of the layer before (0 without one), and of those after.
        activations: after the layer before, after the convolution, and between the layers after; see `dense_layers`.
        residual: whether `x` is added to the result.
    """
    x = x.contiguous()
    out = _empty_image(x, size, stride, padding, widths[len(weights)])
    problem = _DepthwiseProblem(
        *x.shape,
        *out.shape[1:3],
        size,
        stride,
        padding,
        (ctypes.c_int64 * 3)(*widths),
        (ctypes.c_int64 * 3)(*map(ACTIVATIONS.index, activations)),
        torch.get_num_threads(),
    )
    second = (weights[1], biases[1]) if len(weights) == 2 else (None, None)
    layers = (weight, bias, taps, taps_bias, weights[0], biases[0], *second)
    calls.call("regard_depthwise", x.dtype, problem, x, *layers, x if residual else None, out)
    return out


def _empty_image(x: Tensor, size: int, stride: int, padding: int, width: int) -> Tensor:
    grid = [(length + 2 * padding - size) // stride + 1 for length in x.shape[1:3]]
    return x.new_empty(x.shape[0], *grid, width)


torch.library.register_fake(
    "regard::depthwise",
    lambda x, *rest: _empty_image(x, rest[4], rest[5], rest[6], width=rest[9][len(rest[7])]),
    lib=_LIBRARY,
)
