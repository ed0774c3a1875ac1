"""Dense layers with the activation or the residual that follows them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from regard.onednn.even import EvenLinear
from regard.onednn.hooks import has_hooks
from regard.onednn.packed import PackedLinear
from regard.onednn.product import product

Activation = Callable[[Tensor], Tensor]

LINEAR = (nn.Linear, EvenLinear, PackedLinear)
"""Classes, without their subclasses, that compute the product of input and weight."""


def dense(
    layer: nn.Module, x: Tensor, *, activation: Activation | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute `activation(layer(x)) + residual`, in one call of oneDNN where the result is the same.

    Args:
        layer: usually an `nn.Linear`. Any other module, and one with hooks, is called.
        x: `[..., in_features]`.
        activation: applied to the layer's output, if given.
        residual: added last, if given. oneDNN takes an activation or a residual, not both.

    Precision:
        That of `torch.nn.functional.linear`. The last bits may differ from a call that records gradients.

    Example:
        >>> import torch
        >>> layer = nn.Linear(8, 4)
        >>> with torch.no_grad():
        ...     dense(layer, torch.randn(2, 9, 8), activation=F.gelu).shape
        torch.Size([2, 9, 4])
    """
    gelu = activation is not None and _is_gelu(activation)
    out = None
    if isinstance(layer, nn.Linear) and type(layer) in LINEAR and (activation is None or residual is None):
        out = product(layer, x, gelu, residual)
    if out is not None:
        return out if activation is None or gelu else activation(out)
    out = layer(x)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


def _is_gelu(activation: Activation) -> bool:
    """Whether an activation is the exact GELU, without hooks."""
    exact = type(activation) is nn.GELU and activation.approximate == "none" and not has_hooks(activation)
    return activation is F.gelu or exact
