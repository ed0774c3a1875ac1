"""Layers for inference with packed weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regard.dense.packing import Packed
from regard.dense.support import is_intercepted, is_plain_tensor, supports

ATTRIBUTES: Mapping[str, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "gelu": ("gelu", [], "none"),
    "silu": ("swish", [], ""),
}
"""What oneDNN's operators call an activation."""


class PackedLinear(Packed, nn.Linear):
    """Dense layer for inference with a packed weight, on oneDNN.

    Example:
        >>> layer = PackedLinear(768, 192)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 196, 768)).shape
        torch.Size([1, 196, 192])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[..., in_features]` to `[..., out_features]`."""
        return self.multiply(x) if self.supports(x) else super().forward(x)

    def multiply(self, x: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
        """Multiply on oneDNN, with "none", "gelu" or "silu" after it, or with a sum with `residual`."""
        x = x.contiguous()
        tokens = x.numel() // x.shape[-1]
        weight = self.packed(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, tokens))
        operator = torch.ops.mkldnn._linear_pointwise
        out: Tensor
        if residual is not None:
            out = operator.binary(x, residual.contiguous(), weight, self.bias, "add")
        else:
            out = operator(x, weight, self.bias, *ATTRIBUTES[activation])
        return out

    def supports(self, x: Tensor, residual: Tensor | None = None) -> bool:
        """Whether oneDNN computes the call on `x`."""
        return (
            not is_intercepted()
            and supports(self, x, self.weight, self.bias)
            and x.ndim > 1
            and self.weight.shape == (self.out_features, x.shape[-1])
            and (
                residual is None or (is_plain_tensor(residual) and residual.shape == (*x.shape[:-1], self.out_features))
            )
        )


class PackedConv2d(Packed, nn.Conv2d):
    """Convolution for inference with a packed weight.

    oneDNN computes images `[B, C, H, W]` in the channels-last layout; other inputs run as in `nn.Conv2d`.

    Example:
        >>> layer = PackedConv2d(56, 112, 3, stride=2, padding=1)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 56, 28, 28).to(memory_format=torch.channels_last)).shape
        torch.Size([1, 112, 14, 14])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        return self.convolve(x) if self.supports(x) else super().forward(x)

    def convolve(self, x: Tensor, activation: str = "none") -> Tensor:
        """Convolve on oneDNN, with "none", "gelu" or "silu" after it."""
        window = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.packed(lambda weight: torch.ops.mkldnn._reorder_convolution_weight(weight, *window, x.shape))
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *window, *ATTRIBUTES[activation])
        return out

    def supports(self, x: Tensor) -> bool:
        """Whether oneDNN computes the call on `x`."""
        return (
            not is_intercepted()
            and supports(self, x, self.weight, self.bias)
            and x.ndim == 4
            and x.shape[1] == self.in_channels
            and self.weight.shape == (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and all(
                length + 2 * padding > dilation * (size - 1)  # else PyTorch raises its own, clear error
                for length, padding, dilation, size in zip(
                    x.shape[2:], self.padding, self.dilation, self.kernel_size, strict=True
                )
            )
        )
