"""Blocks around a depth-wise convolution, for inference on regard's own kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.dense.linear import Activation, convolve, mlp, name_of
from regard.dense.packed import PackedConv2d
from regard.dense.panels import Panel, supports_panels

MAX_SIZE = 7
"""Of a window."""
MIN_CHANNELS = 16
"""As many as the largest vectors have lanes."""


class DepthwiseConv2d(PackedConv2d):
    """Depth-wise convolution for inference, which `depthwise_block` computes with the layers around it.

    A call of its own runs on oneDNN.

    Example:
        >>> layer = DepthwiseConv2d(48, 48, 3, padding=1, groups=48)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 48, 28, 28).to(memory_format=torch.channels_last)).shape
        torch.Size([1, 48, 28, 28])
    """

    @classmethod
    def accepts(cls, layer: nn.Module) -> bool:
        """Whether a convolution is depth-wise, with a square window and steps."""
        return (
            isinstance(layer, nn.Conv2d)
            and layer.groups == layer.in_channels == layer.out_channels
            and layer.kernel_size[0] == layer.kernel_size[1] <= MAX_SIZE
            and layer.stride[0] == layer.stride[1]
            and layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
            and layer.padding[0] == layer.padding[1] < layer.kernel_size[0]
        )

    def taps(self) -> Tensor:
        """Return the weight as `[size * size, channels]`."""
        state = (self.weight.data_ptr(), self.weight._version) if not self.is_constant else None
        if state is not None and vars(self).get("_packed_taps_from") != state:
            self._packed_taps = self.weight.detach().flatten(1).T.contiguous()
            self._packed_taps_from = state
        return self._packed_taps


def depthwise_block(
    x: Tensor,
    depthwise: nn.Module,
    layers: Sequence[nn.Module],
    activations: tuple[Activation | None, Activation | None, Activation | None],
    *,
    before: nn.Module | None = None,
    residual: bool = False,
) -> Tensor:
    """Compute a dense layer, a depth-wise convolution, and one or two dense layers, in one call if all are packed.

    Args:
        x: images `[B, C, H, W]`.
        depthwise: a convolution.
        layers: one or two after it: 1x1 convolutions, or `nn.Linear` on the channels.
        activations: after `before`, after `depthwise`, and between the two layers.
        before: a 1x1 convolution, if given.
        residual: whether `x` is added to the result.

    Precision:
        That of the layers, one after the other.

    Example:
        >>> depthwise, layer = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        >>> depthwise_block(torch.randn(1, 8, 5, 5), depthwise, [layer], (None, nn.SiLU(), None), residual=True).shape
        torch.Size([1, 8, 5, 5])
    """
    out = _run(x, depthwise, layers, activations, before, residual)
    if out is not None:
        return out
    first, second, between = activations
    hidden = x if before is None else convolve(before, x, first)
    hidden = convolve(depthwise, hidden, second)
    added = x if residual else None
    if all(isinstance(layer, nn.Linear) for layer in layers):
        hidden = hidden.permute(0, 2, 3, 1)
        added = None if added is None else added.permute(0, 2, 3, 1)
    if len(layers) == 2:
        hidden = mlp(layers[0], layers[1], hidden, activation=between, residual=added)
    else:
        hidden = layers[0](hidden)
        hidden = hidden if added is None else hidden + added
    return hidden.permute(0, 3, 1, 2) if isinstance(layers[0], nn.Linear) else hidden


def _run(
    x: Tensor,
    depthwise: nn.Module,
    layers: Sequence[nn.Module],
    activations: Sequence[Activation | None],
    before: nn.Module | None,
    residual: bool,
) -> Tensor | None:
    names = [name_of(activation) for activation in activations]
    first = [] if before is None else [before]
    panels = [layer for layer in (*first, *layers) if isinstance(layer, Panel)]
    if (
        type(depthwise) is not DepthwiseConv2d
        or len(panels) < len(first) + len(layers)
        or not all(names)
        or not isinstance(x, Tensor)  # a proxy that traces
        or x.ndim != 4
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return None
    tokens = x.permute(0, 2, 3, 1)
    wider, after = panels[: len(first)], panels[len(first) :]
    if not _supports(tokens, depthwise, wider, after, residual):
        return None
    out: Tensor = torch.ops.regard.depthwise(
        tokens,
        wider[0].panels() if wider else None,
        wider[0].bias if wider else None,
        depthwise.taps(),
        depthwise.bias,
        depthwise.kernel_size[0],
        depthwise.stride[0],
        depthwise.padding[0],
        [layer.panels() for layer in after],
        [layer.bias for layer in after],
        [len(wider[0].weight) if wider else 0, *(len(layer.weight) for layer in after), 0][:3],
        names,
        residual,
    )
    return out.permute(0, 3, 1, 2)


def _supports(
    tokens: Tensor, depthwise: DepthwiseConv2d, wider: Sequence[Panel], after: Sequence[Panel], residual: bool
) -> bool:
    """Whether the kernel supports the call, and the layers fit to one another."""
    channels, size = depthwise.in_channels, depthwise.kernel_size[0]
    padding = int(depthwise.padding[0])
    widths = [tokens.shape[-1], *(len(layer.weight) for layer in wider), *(len(layer.weight) for layer in after)]
    depths = [layer.weight.shape[1] for layer in (*wider, *after)]
    return (
        supports_panels([depthwise, *wider, *after], tokens)
        and MIN_CHANNELS <= channels == widths[len(wider)]
        and widths[:-1] == depths
        and depthwise.weight.shape == (channels, 1, size, size)
        and all(length + 2 * padding >= size for length in tokens.shape[1:3])
        and not (residual and (depthwise.stride != (1, 1) or 2 * padding != size - 1 or widths[-1] != widths[0]))
    )
