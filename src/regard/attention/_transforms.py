"""What fused operators owe to torch's transforms: autocast, forward-mode and functional differentiation, tracing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def untraceable_reasons() -> list[str]:
    """Say which transform is running that an operator with a backward formula only cannot serve; empty if none is."""
    if torch.compiler.is_compiling():  # compiled code differentiates by the backward formula
        return []
    if torch._C._is_tracing():
        return ["torch.jit.trace records no operator of ours; torch.export does"]
    reasons = []
    if forward_ad._current_level >= 0:
        reasons.append("the kernel has no forward-mode derivative")
    levels = torch._C._functorch.get_interpreter_stack()
    if any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels or ()):
        reasons.append("the kernel's gradients are torch.autograd's, not those of torch.func")
    return reasons


def map_entries(operator: Any) -> Any:  # noqa: ANN401
    """Make the rule by which `torch.func.vmap` calls an operator: once for every entry."""

    def rule(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # noqa: ANN401
        mapped = [
            isinstance(x, Tensor) and dim is not None for x, dim in zip(inputs, in_dims, strict=True)
        ]  # lists of numbers have lists of None
        first = [x.movedim(dim, 0) if here else x for x, dim, here in zip(inputs, in_dims, mapped, strict=True)]
        results = [
            operator(*(x[entry] if here else x for x, here in zip(first, mapped, strict=True)))
            for entry in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = type(results[0])(map(torch.stack, zip(*results, strict=True)))
        return stacked, type(stacked)(0 for _ in stacked)

    return rule


def cast_for_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast tensors as torch's own matrix products are under `torch.autocast`: to its dtype, but for float64."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [
        tensor if tensor is None or tensor.dtype == torch.float64 or tensor.device.type != "cpu" else tensor.to(dtype)
        for tensor in tensors
    ]
