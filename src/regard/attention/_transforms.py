"""Transforms of PyTorch that operators serve: derivatives of any order and `vmap`; and those that they cannot serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

VmapRule: TypeAlias = Callable[..., tuple[Any, Any]]


def untraceable_reasons() -> list[str]:
    """Return the running transforms that an operator with only a backward formula cannot serve, as reasons."""
    if torch.compiler.is_compiling():  # compiled code differentiates by the backward formula
        return []
    if torch._C._is_tracing():
        return ["torch.jit.trace does not record regard's operators; use torch.export"]
    reasons = forward_mode_reasons()
    levels = torch._C._functorch.get_interpreter_stack()
    if any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels or ()):
        reasons.append("the kernel's gradients are torch.autograd's, not those of torch.func")
    return reasons


def forward_mode_reasons() -> list[str]:
    """Return a reason if derivatives are computed in forward mode, of which kernels know nothing."""
    return ["the kernel has no forward-mode derivative"] if forward_ad._current_level >= 0 else []


def derivative(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    wanted: Sequence[int],
    grad_outputs: Sequence[Tensor],
    *,
    create_graph: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a function's tensor inputs.

    Args:
        function: takes `inputs`, returns a tensor or a tuple of tensors.
        inputs: tensors and others.
        wanted: positions of the tensors whose gradients are returned, in this order.
        grad_outputs: gradients of the outputs.
        create_graph: whether the gradients can be differentiated. Then the function runs on the inputs themselves.
    """
    if create_graph:
        values = [_with_grad(value) if place in wanted else value for place, value in enumerate(inputs)]
    else:
        values = [
            value.detach().requires_grad_(place in wanted) if isinstance(value, Tensor) else value
            for place, value in enumerate(inputs)
        ]
    result = function(*values)
    outputs = result if isinstance(result, tuple) else (result,)
    pairs = [pair for pair in zip(outputs, grad_outputs, strict=True) if pair[0].requires_grad]
    if not pairs:
        return (None,) * len(wanted)
    return torch.autograd.grad(
        [output for output, _ in pairs],
        [values[place] for place in wanted],
        [grad for _, grad in pairs],
        create_graph=create_graph,
        allow_unused=True,
    )


def _with_grad(tensor: Tensor) -> Tensor:
    """Return a node of its own: where one input is computed from another, each gradient counts its own uses only."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def map_batch(operator: Callable[..., Any], batched: Sequence[int]) -> VmapRule:
    """Return the `torch.func.vmap` rule that folds the mapped axis into the batch axis.

    Args:
        operator: called once, or once per entry where another input than those of `batched` is mapped.
        batched: positions of the inputs that have a batch axis.
    """
    one_by_one = map_entries(operator)

    def rule(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # noqa: ANN401  # vmap's signature
        mapped = [place for place, value in enumerate(inputs) if _is_mapped(value, in_dims[place])]
        if not info.batch_size or any(place not in batched for place in mapped):
            return one_by_one(info, in_dims, *inputs)
        values = list(inputs)
        for place in batched:
            value, dim = inputs[place], in_dims[place]
            value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            values[place] = value.flatten(0, 1)
        result = operator(*values)
        batch = values[batched[0]].shape[0] // info.batch_size
        if isinstance(result, Tensor):
            return result.unflatten(0, (info.batch_size, batch)), 0
        return tuple(output.unflatten(0, (info.batch_size, batch)) for output in result), (0,) * len(result)

    return rule


def map_entries(operator: Callable[..., Any]) -> VmapRule:
    """Return the `torch.func.vmap` rule that calls an operator once per entry."""

    def rule(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # noqa: ANN401  # vmap's signature
        mapped = [_is_mapped(value, dim) for value, dim in zip(inputs, in_dims, strict=True)]
        first = [x.movedim(dim, 0) if here else x for x, dim, here in zip(inputs, in_dims, mapped, strict=True)]
        if not info.batch_size:  # no entry: one call on zeros tells the shapes
            first = [x.new_zeros(1, *x.shape[1:]) if here else x for x, here in zip(first, mapped, strict=True)]
        results = [
            operator(*(x[entry] if here else x for x, here in zip(first, mapped, strict=True)))
            for entry in range(max(info.batch_size, 1))
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[: info.batch_size], 0
        stacked = type(results[0])(torch.stack(outputs)[: info.batch_size] for outputs in zip(*results, strict=True))
        return stacked, type(stacked)(0 for _ in stacked)

    return rule


def _is_mapped(value: object, dim: object) -> bool:
    return isinstance(value, Tensor) and dim is not None  # a list of numbers has a list of None
