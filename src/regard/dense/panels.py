"""Dense layers for inference on regard's own kernel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.dense.op import pack, panel_width
from regard.dense.packed import PackedConv2d
from regard.dense.packing import Packed
from regard.dense.support import is_intercepted, is_plain_tensor, supports
from regard.native import loader


class Panels(Packed):
    """Base class of the layers that regard's kernel computes."""

    def panels(self) -> Tensor:
        """Return the packed weight."""
        if self.is_constant:
            constant: Tensor = self._packed
            return constant
        return self.packed(lambda weight: pack(weight.flatten(1)), loader.NATIVE.instruction_set)


class PanelLinear(Panels, nn.Linear):
    """Dense layer for inference with a weight packed in panels, as regard's kernel reads it.

    `dense` and `mlp` compute such a layer with what surrounds it in one call: the layer normalization before it, a
    GELU or SiLU after it, the layer after that, and a residual.

    Precision:
        That of `torch.nn.functional.linear`; sums of more than 128 products are sums of shorter sums.

    Example:
        >>> layer = PanelLinear(48, 192)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 196, 48)).shape
        torch.Size([1, 196, 192])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[..., in_features]` to `[..., out_features]`."""
        out = run_panels((self,), x)
        return super().forward(x) if out is None else out


class PanelConv2d(Panels, nn.Conv2d):
    """1x1 convolution for inference, computed as a dense layer on channels-last images.

    Example:
        >>> layer = PanelConv2d(56, 112, 1)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 56, 28, 28).to(memory_format=torch.channels_last)).shape
        torch.Size([1, 112, 28, 28])
    """

    @classmethod
    def accepts(cls, layer: nn.Module) -> bool:
        """Whether a convolution is a dense layer on every pixel."""
        return (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == layer.stride == (1, 1)
            and layer.padding in ((0, 0), "valid")
            and layer.groups == 1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        out = run_panels((self,), x)
        return super().forward(x) if out is None else out


Panel = PanelLinear | PanelConv2d
"""A layer that the kernel computes."""


def run_panels(
    layers: Sequence[nn.Module],
    x: Tensor,
    activation: str = "none",
    residual: Tensor | None = None,
    epsilon: float | None = None,
) -> Tensor | None:
    """Compute one or two layers in one call of regard's kernel.

    Args:
        layers: any modules, all dense layers or all convolutions.
        x: `[..., C]`, or images `[B, C, H, W]` for convolutions.
        activation: after the first layer.
        residual: added last.
        epsilon: of a layer normalization without parameters before the first layer; None for none.

    Returns:
        The result, or None if a layer has no panels, or if the kernel does not support the call.
    """
    panels = [layer for layer in layers if isinstance(layer, Panel)]
    if len(panels) < len(layers) or not isinstance(x, Tensor):  # a proxy that traces
        return None
    is_image = isinstance(panels[0], PanelConv2d)
    if is_image:
        if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        x = x.permute(0, 2, 3, 1)
        residual = None if residual is None else residual.permute(0, 2, 3, 1)
    if not supports_panels(panels, x) or not _fits(panels, x, residual):
        return None
    if residual is not None and not (panels[0].is_constant or is_plain_tensor(residual)):
        return None
    operator = torch.ops.regard.dense
    out: Tensor = operator(
        x,
        [layer.panels() for layer in panels],
        [layer.bias for layer in panels],
        len(panels[-1].weight),
        activation,
        residual,
        -1.0 if epsilon is None else epsilon,
    )
    return out.permute(0, 3, 1, 2) if is_image else out


def supports_panels(layers: Sequence[Panel | PackedConv2d], x: Tensor) -> bool:
    """Whether regard's kernels may compute packed layers on `x`, `[..., C]`."""
    if all(layer.is_constant for layer in layers):  # a compiler traces with tensors that are not plain
        return x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return (
        not is_intercepted()
        and panel_width() > 0
        and all(supports(layer, x, layer.weight, layer.bias) for layer in layers)
        and not any(layer.weight.is_inference() for layer in layers)  # they cannot be packed
    )


def _fits(layers: Sequence[Panel], x: Tensor, residual: Tensor | None) -> bool:
    """Whether the shapes of layers, input and residual fit to one another."""
    return (
        x.ndim >= 2
        and x.shape[-1] == layers[0].weight.shape[1]
        and all(len(first.weight) == second.weight.shape[1] for first, second in itertools.pairwise(layers))
        and (residual is None or residual.shape == (*x.shape[:-1], len(layers[-1].weight)))
    )
