"""Dense layers, with what follows them, as fast as torch's libraries make them on a CPU.

PyTorch's `linear` calls MKL. Its oneDNN does the same product in up to a third less time for the small matrices of
vision networks, and applies an activation or adds a residual before the result leaves the cache. It has no gradient,
so it serves inference only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        return _product(layer, x.contiguous(), activation, residual)
    out: Tensor = layer(x)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


class PackedLinear(nn.Linear):
    """A dense layer for inference that keeps its weight a second time, laid out as oneDNN's product reads it.

    Its state dict is that of `nn.Linear`; the second copy is made by the first call, for that call's number of tokens,
    and again when the weight has changed (but not if it was changed through `.data`, which nobody can see).

    Example:
        >>> layer = PackedLinear(768, 192)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 196, 768)).shape
        torch.Size([1, 196, 192])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[..., in_features]`."""
        return _product(self, x.contiguous()) if _onednn_serves(self, x, None) else super().forward(x)

    def packed(self, tokens: int) -> Tensor:
        """Return the weight as oneDNN reads it; `tokens` is for how many the layout is chosen."""
        state = (self.weight.data_ptr(), self.weight._version)
        if vars(self).get("_packed_from") != state:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), tokens)
            self._packed_from = state
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made again: oneDNN's layouts are those of a machine."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_packed")}


def _product(
    layer: nn.Linear, x: Tensor, activation: Activation | None = None, residual: Tensor | None = None
) -> Tensor:
    weight: Tensor = layer.weight
    if isinstance(layer, PackedLinear) and not weight.is_inference():  # inference tensors have no version
        weight = layer.packed(x.numel() // x.shape[-1])
    product = torch.ops.mkldnn._linear_pointwise
    out: Tensor
    if residual is not None:
        out = product.binary(x, residual.contiguous(), weight, layer.bias, "add")
    else:
        out = product(x, weight, layer.bias, "none" if activation is None else "gelu", [], "none")
    return out


def _onednn_serves(layer: nn.Module, x: Tensor, residual: Tensor | None) -> bool:
    """Tell whether torch's private operator may stand for a layer's call: nobody differentiates, listens or traces."""
    if type(layer) not in (nn.Linear, EvenLinear, PackedLinear) or torch.compiler.is_compiling():
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
