"""Whether oneDNN's operators may compute a layer's call."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from regard.dense.hooks import has_hooks

AVAILABLE = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def supports(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a private operator, which has no gradient and runs no hooks, may replace a call of `layer` on `x`."""
    return (
        AVAILABLE
        and torch._C._get_mkldnn_enabled()
        and not has_hooks(layer)
        and is_plain_tensor(x)
        and is_plain_tensor(weight)
        # the operators read a bias as one row, whatever its shape and strides
        and (bias is None or (is_plain_tensor(bias) and bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and x.numel() > 0
    )


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one: float32, strided, on the CPU, and no gradient is recorded for it."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.is_cpu
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not (tensor.requires_grad and torch.is_grad_enabled())
    )


def is_intercepted() -> bool:
    """Whether PyTorch compiles, traces, counts, maps, casts or forward-differentiates the current call."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )
