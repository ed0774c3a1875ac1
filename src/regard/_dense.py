"""Dense layers, with what follows them, as fast as torch's libraries make them on a CPU.

PyTorch's `linear` calls MKL. Its oneDNN does the same product in up to a third less time for the small matrices of
vision networks, and applies an activation or adds a residual before the result leaves the cache. It has no gradient,
so it serves inference only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

Activation = Callable[[Tensor], Tensor]


class EvenLinear(nn.Linear):
    """A dense layer whose product is as wide as whole vectors, and cut to the layer's width.

    Matrix products of odd widths, such as MobileViTv2's 1 + 2 * C, take half as long again on CPUs.

    Example:
        >>> EvenLinear(128, 257)(torch.randn(2, 9, 128)).shape
        torch.Size([2, 9, 257])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[..., in_features]`."""
        missing = -self.out_features % 16
        bias = None if self.bias is None else F.pad(self.bias, (0, missing))
        return F.linear(x, F.pad(self.weight, (0, 0, 0, missing)), bias)[..., : self.out_features]


def dense(
    layer: nn.Module, x: Tensor, *, activation: Activation | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute `activation(layer(x))` or `layer(x) + residual`, with one call of oneDNN where that gives the same.

    Args:
        layer: usually an `nn.Linear`; any other module, and one with hooks, is called.
        x: `[..., in_features]`.
        activation: applied to the layer's output.
        residual: of the output's shape; without an activation.

    Precision:
        That of `torch.nn.functional.linear`; the last bits may differ from those with gradients.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> with torch.no_grad():
        ...     dense(layer, torch.randn(2, 9, 8), activation=F.gelu).shape
        torch.Size([2, 9, 4])
    """
    if _onednn_serves(layer, x, residual) and (activation is None or _is_gelu(activation)):
        assert isinstance(layer, nn.Linear)
        product = torch.ops.mkldnn._linear_pointwise
        x = x.contiguous()
        if residual is not None:
            out: Tensor = product.binary(x, residual.contiguous(), layer.weight, layer.bias, "add")
        else:
            out = product(x, layer.weight, layer.bias, "none" if activation is None else "gelu", [], "none")
        return out
    out = layer(x)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


def _onednn_serves(layer: nn.Module, x: Tensor, residual: Tensor | None) -> bool:
    """Tell whether torch's private operator may stand for a layer's call: nobody differentiates, listens or traces."""
    if type(layer) not in (nn.Linear, EvenLinear) or torch.compiler.is_compiling():
        return False
    if _is_transformed() or _is_heard(layer):
        return False
    tensors = [tensor for tensor in (x, layer.weight, layer.bias, residual) if tensor is not None]
    return (
        type(x) is Tensor
        and type(layer.weight) is nn.Parameter
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and x.ndim > 1
        and x.numel() > 0
        and x.shape[-1] == layer.in_features
        and (residual is None or residual.shape == (*x.shape[:-1], layer.out_features))
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _is_heard(layer: nn.Module) -> bool:
    """Tell whether somebody has a hook on a layer, or on all, or has replaced its forward on the object."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    everywhere = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return any(hooks) or any(everywhere) or "forward" in vars(layer)


def _is_transformed() -> bool:
    """Tell whether what runs is recorded, counted, mapped, cast or differentiated forwards."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


def _is_gelu(activation: Activation) -> bool:
    return activation is F.gelu or (type(activation) is nn.GELU and activation.approximate == "none")
