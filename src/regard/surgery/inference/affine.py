"""Folding a factor and a summand per channel into the layer before or after, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.surgery.inspection import Sharing, is_plain


def can_fold(module: object, kind: type[nn.Module], sharing: Sharing) -> bool:
    """Whether a layer's weights may change: it is a plain layer of class `kind`, and its weights are not tied."""
    return is_plain(module, kind) and isinstance(module, nn.Module) and not sharing.reason(module)


def norm_affine(norm: object, sharing: Sharing) -> tuple[Tensor, Tensor] | None:
    """Return the factor and the summand of a batch norm in evaluation mode, in float64.

    None if the module is no batch norm, has no running statistics, or cannot be folded.
    """
    if not isinstance(norm, nn.BatchNorm2d) or not can_fold(norm, nn.BatchNorm2d, sharing):
        return None
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    factor = torch.rsqrt(variance.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    summand = -mean.double() * factor
    return factor, summand if norm.bias is None else summand + norm.bias.double()


def scale_output(layer: nn.Conv2d | nn.Linear, factor: Tensor, summand: Tensor | None = None) -> None:
    """Change a layer in place to `factor * layer(x) + summand`."""
    factor = factor.flatten().double()
    weight = layer.weight.double() * factor.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = factor * layer.bias.double() if layer.bias is not None else torch.zeros_like(factor)
    _set_parameters(layer, weight, bias if summand is None else bias + summand)


def scale_input(layer: nn.Conv2d | nn.Linear, factor: Tensor, summand: Tensor) -> None:
    """Change a dense layer or a 1x1 convolution in place to `layer(factor * x + summand)`."""
    matrix = layer.weight.double().flatten(1)  # [out, in]
    bias = matrix @ summand
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    _set_parameters(layer, (matrix * factor).view_as(layer.weight), bias)


def _set_parameters(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    dtype, requires_grad = layer.weight.dtype, layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=requires_grad)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=requires_grad)
