"""Layers on oneDNN, for inference on a CPU.

PyTorch's `linear` calls MKL. Its oneDNN does the same product in up to a third less time for the small matrices of
vision networks, and applies an activation or adds a residual before the result leaves the cache. With weights that are
laid out for it beforehand, products and convolutions save up to a fifth more. The operators are private and have no
gradient: everything here takes PyTorch's own path whenever somebody could tell the difference.
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

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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


class Packed(nn.Module):
    """A layer for inference that keeps its weight a second time, laid out as oneDNN reads it.

    State dict and parameters are those of the layer. The second copy is made by the first call, for that call's sizes,
    and again when the weight has changed (but not if it was changed through `.data`, which nobody can see).
    """

    weight: Tensor

    def packed(self, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weight as oneDNN reads it."""
        if self.weight.is_inference():  # such tensors have no version
            return self.weight
        state = (self.weight.data_ptr(), self.weight._version)
        if vars(self).get("_packed_from") != state:
            self._packed = pack(self.weight.detach())
            self._packed_from = state
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made again: oneDNN's layouts are those of a machine."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_packed")}


class PackedLinear(Packed, nn.Linear):
    """A dense layer for inference with a packed weight.

    Example:
        >>> layer = PackedLinear(768, 192)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 196, 768)).shape
        torch.Size([1, 196, 192])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[..., in_features]`."""
        out = _product(self, x)
        return super().forward(x) if out is None else out


class PackedConv2d(Packed, nn.Conv2d):
    """A convolution for inference with a packed weight, which serves images `[B, C, H, W]` in the channels-last layout.

    Example:
        >>> layer = PackedConv2d(56, 112, 3, stride=2, padding=1)
        >>> with torch.no_grad():
        ...     layer(torch.randn(1, 56, 28, 28).to(memory_format=torch.channels_last)).shape
        torch.Size([1, 112, 14, 14])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        if not self._serves(x):
            return super().forward(x)
        window = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.packed(lambda weight: torch.ops.mkldnn._reorder_convolution_weight(weight, *window, x.shape))
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *window, "none", [], "")
        return out

    def _serves(self, x: Tensor) -> bool:
        return (
            not _is_watched()
            and _serves(self, x, self.weight, self.bias)
            and x.ndim == 4
            and x.shape[1] == self.in_channels
            and self.weight.shape == (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and all(
                length + 2 * padding > dilation * (size - 1)  # else PyTorch's error says it better
                for length, padding, dilation, size in zip(
                    x.shape[2:], self.padding, self.dilation, self.kernel_size, strict=True
                )
            )
        )


def dense(
    layer: nn.Module, x: Tensor, *, activation: Activation | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute `activation(layer(x)) + residual`, in one call of oneDNN where that gives the same.

    Args:
        layer: usually an `nn.Linear`; any other module, and one with hooks, is called.
        x: `[..., in_features]`.
        activation: applied to the layer's output, if given.
        residual: added at last, if given; no one call does both.

    Precision:
        That of `torch.nn.functional.linear`; the last bits may differ from those with gradients.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> with torch.no_grad():
        ...     dense(layer, torch.randn(2, 9, 8), activation=F.gelu).shape
        torch.Size([2, 9, 4])
    """
    gelu = activation is not None and _is_gelu(activation)
    out = None if activation is not None and residual is not None else _product(layer, x, gelu, residual)
    if out is not None:
        return out if activation is None or gelu else activation(out)
    out = layer(x)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


def _product(layer: nn.Module, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor | None:
    """Call oneDNN for a dense layer; None where PyTorch's own path is to be taken, or takes less time."""
    if not (isinstance(layer, nn.Linear) and type(layer) in DENSE and isinstance(x, Tensor)) or _is_watched():
        return None
    alone = type(layer) is not PackedLinear and not gelu and residual is None
    if x.numel() * layer.out_features < (FEWEST_ALONE if alone else FEWEST):
        return None
    weight, bias = layer.weight, layer.bias
    if (
        not _serves(layer, x, weight, bias)
        or x.ndim < 2
        or weight.shape != (layer.out_features, x.shape[-1])
        or not (residual is None or (_is_plain(residual) and residual.shape == (*x.shape[:-1], layer.out_features)))
    ):
        return None
    x = x.contiguous()
    if isinstance(layer, PackedLinear):
        tokens = x.numel() // x.shape[-1]
        weight = layer.packed(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, tokens))
    product = torch.ops.mkldnn._linear_pointwise
    out: Tensor
    if residual is not None:
        out = product.binary(x, residual.contiguous(), weight, bias, "add")
    else:
        out = product(x, weight, bias, "gelu" if gelu else "none", [], "none")
    return out


DENSE = (nn.Linear, EvenLinear, PackedLinear)
# Multiplications from which on a call pays, which costs some 25 microseconds more than PyTorch's own.
FEWEST_ALONE = 16 << 20
FEWEST = 4 << 20  # where a pass over the result is saved too, or the weight is packed


def _serves(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether a private operator may stand for a layer's call: nobody differentiates or listens."""
    return (
        AVAILABLE
        and torch._C._get_mkldnn_enabled()
        and not is_heard(layer)
        and _is_plain(x)
        and _is_plain(weight)
        # the operators read a bias as one row, whatever its shape and strides
        and (bias is None or (_is_plain(bias) and bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and x.numel() > 0
    )


AVAILABLE = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is an ordinary one, float32 on the CPU, and without a gradient."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.is_cpu
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not (tensor.requires_grad and torch.is_grad_enabled())
    )


def _is_gelu(activation: Activation) -> bool:
    exact = type(activation) is nn.GELU and activation.approximate == "none" and not is_heard(activation)
    return activation is F.gelu or exact


def altered(module: nn.Module, harmless: str = "") -> str:
    """Say what somebody has done to a module that only a call of it would run; empty if nothing.

    Args:
        module: any.
        harmless: the Python module whose hooks do not count.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> altered(layer)
        ''
        >>> handle = layer.register_forward_hook(print)
        >>> altered(layer)
        'has hooks, which expect the original calls'
    """
    own = vars(module)
    if "forward" in own:
        return "has a forward that was put on the object"
    if own.get("_compiled_call_impl") is not None:
        return "is compiled; call fuse first, then torch.compile"
    if "parametrizations" in own["_modules"]:
        return "has a parametrization"
    for hooks in HOOKS:
        if own[hooks] and any(getattr(hook, "__module__", "") != harmless for hook in own[hooks].values()):
            return "has hooks, which expect the original calls"
    return ""


def is_heard(module: nn.Module) -> bool:
    """Tell whether somebody would notice that a module is not called: `altered`, or by hooks on all modules.

    Example:
        >>> is_heard(nn.Linear(2, 2))
        False
    """
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks or altered(module))


def _is_watched() -> bool:
    """Tell whether what runs is compiled, recorded, counted, mapped, cast or differentiated forwards."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )
