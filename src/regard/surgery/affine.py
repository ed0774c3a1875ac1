"""Moving a factor and a summand per channel into the layer before or after, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.onednn import is_heard
from regard.surgery.obstacles import Sharing

PLAIN = {
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "timm.layers.conv2d_same.Conv2dSame",
    "timm.layers.linear.Linear",
    "timm.layers.norm_act.BatchNormAct2d",
    "regard.onednn.PackedLinear",
    "regard.onednn.PackedConv2d",
}
"""Layers that do what their weights say; others standardize, quantize or reparametrize them."""


def plain(module: object, kind: type[nn.Module]) -> bool:
    """Tell whether a layer is of one kind and nobody listens to it."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return name in PLAIN and isinstance(module, kind) and not is_heard(module)


def foldable(module: object, kind: type[nn.Module], sharing: Sharing) -> bool:
    """Tell whether the weights of a layer may change: it is plain, and they stand nowhere else."""
    return plain(module, kind) and isinstance(module, nn.Module) and not sharing.reason(module)


def affine_of(norm: object, sharing: Sharing) -> tuple[Tensor, Tensor] | None:
    """Return factor and summand of a batch norm in evaluation mode, float64; None if it is none."""
    if not foldable(norm, nn.BatchNorm2d, sharing) or norm.running_mean is None or norm.running_var is None:  # type: ignore[attr-defined]
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    factor = torch.rsqrt(variance.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    summand = -mean.double() * factor
    return factor, summand if norm.bias is None else summand + norm.bias.double()


def after(layer: nn.Conv2d | nn.Linear, factor: Tensor, summand: Tensor | None = None) -> None:
    """Change a layer to `factor * layer(x) + summand`."""
    factor = factor.flatten().double()
    weight = layer.weight.double() * factor.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = factor * layer.bias.double() if layer.bias is not None else torch.zeros_like(factor)
    _set(layer, weight, bias if summand is None else bias + summand)


def before(layer: nn.Conv2d | nn.Linear, factor: Tensor, summand: Tensor) -> None:
    """Change a dense layer, or a 1x1 convolution, to `layer(factor * x + summand)`."""
    matrix = layer.weight.double().flatten(1)  # [out, in]
    bias = matrix @ summand
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    _set(layer, (matrix * factor).view_as(layer.weight), bias)


def _set(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    dtype, trained = layer.weight.dtype, layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=trained)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=trained)
