"""Dense layers with the activation or the residual that follows them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from regard.dense.hooks import does_nothing, has_hooks
from regard.dense.packed import PackedConv2d, PackedLinear
from regard.dense.panels import PanelConv2d, run_panels

Activation = Callable[[Tensor], Tensor]


def dense(
    layer: nn.Module, x: Tensor, *, activation: Activation | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute `activation(layer(x)) + residual`, in one call for a layer with packed weights.

    Args:
        layer: usually an `nn.Linear`. Any other module, and one with hooks, is called.
        x: `[..., in_features]`.
        activation: applied to the layer's output, if given.
        residual: added last, if given. A packed layer takes an activation or a residual in its call, not both.

    Precision:
        That of `torch.nn.functional.linear`. The last bits may differ from a call that records gradients.

    Example:
        >>> import torch
        >>> layer = nn.Linear(8, 4)
        >>> with torch.no_grad():
        ...     dense(layer, torch.randn(2, 9, 8), activation=F.gelu).shape
        torch.Size([2, 9, 4])
    """
    name = name_of(activation)
    if name and (out := run_panels((layer,), x, name, residual)) is not None:
        return out
    is_one_step = activation is None or residual is None
    if type(layer) is PackedLinear and name and is_one_step and layer.supports(x, residual):
        return layer.multiply(x, name, residual)
    out = layer(x)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


def convolve(layer: nn.Module, x: Tensor, activation: Activation | None) -> Tensor:
    """Compute `activation(layer(x))`, in one call for a packed convolution and a GELU or SiLU.

    Args:
        layer: usually an `nn.Conv2d`.
        x: `[B, C, H, W]`.
        activation: any function, or None.

    Example:
        >>> import torch
        >>> convolve(nn.Conv2d(3, 8, 3), torch.randn(1, 3, 9, 9), F.silu).shape
        torch.Size([1, 8, 7, 7])
    """
    name, out = name_of(activation), None
    if type(layer) is PanelConv2d and name:
        out = run_panels((layer,), x, name)
    if isinstance(layer, PackedConv2d) and name and layer.supports(x):
        out = layer.convolve(x, name)
    if out is None:
        out = layer(x) if activation is None else activation(layer(x))
    return out


def mlp(
    first: nn.Module,
    second: nn.Module,
    x: Tensor,
    *,
    activation: Activation | None,
    norm: nn.Module | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute `second(activation(first(norm(x)))) + residual`, in one call where both layers are a `PanelLinear`.

    Args:
        first: usually an `nn.Linear`, or a 1x1 convolution on images.
        second: the same.
        x: `[..., in_features]`, or images `[B, C, H, W]`.
        activation: between the layers.
        norm: before the first layer, if given.
        residual: added last, if given.

    Precision:
        That of `torch.nn.functional.linear`.

    Example:
        >>> import torch
        >>> first, second = nn.Linear(8, 32), nn.Linear(32, 8)
        >>> mlp(first, second, torch.randn(2, 9, 8), activation=F.gelu).shape
        torch.Size([2, 9, 8])
    """
    name, epsilon = name_of(activation), _epsilon_of(norm)
    if norm is not None and epsilon is None:
        x = norm(x)
    if name and (out := run_panels((first, second), x, name, residual, epsilon)) is not None:
        return out
    if norm is not None and epsilon is not None:
        x = norm(x)
    return dense(second, dense(first, x, activation=activation), residual=residual)


def name_of(activation: Activation | None) -> str:
    """Return the name by which kernels know an activation; empty for one that they do not compute."""
    if activation is None or (isinstance(activation, nn.Module) and does_nothing(activation)):
        return "none"
    if activation is F.gelu or activation is F.silu:
        return "gelu" if activation is F.gelu else "silu"
    if isinstance(activation, nn.Module) and not has_hooks(activation):
        if type(activation) is nn.SiLU:
            return "silu"
        if type(activation) is nn.GELU and activation.approximate == "none":
            return "gelu"
    return ""


def _epsilon_of(norm: nn.Module | None) -> float | None:
    """Return the epsilon of a layer normalization without parameters, over the last axis; None for anything else."""
    if type(norm) is not nn.LayerNorm or norm.elementwise_affine or len(norm.normalized_shape) > 1 or has_hooks(norm):
        return None
    return norm.eps
