"""What fused operators owe to PyTorch: gradients of any order, `vmap`, autocast, and a word where they cannot serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def register_gradients(
    operator: Any,  # noqa: ANN401
    gradients: Callable[..., Sequence[Tensor | None]],
    definition: Callable[..., Any],
    *,
    statistics: bool = False,
) -> None:
    """Make an operator differentiable.

    Args:
        operator: made by `torch.library.custom_op`.
        gradients: takes the operator's inputs as a list and the gradients of its outputs, and returns the gradients of
            the inputs, None for what is no tensor.
        definition: the reference as a function of the operator's inputs. It serves where gradients are to be
            differentiated again.
        statistics: whether the second output is one that `gradients` reads, in place of its gradient.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        ctx.places = [place for place, x in enumerate(inputs) if isinstance(x, Tensor)]
        ctx.options = [None if isinstance(x, Tensor) else x for x in inputs]
        kept = [output[1]] if statistics else []
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*(inputs[place] for place in ctx.places), *kept)

    def differentiate(ctx: Any, *out_gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs = list(ctx.options)
        *tensors, last = ctx.saved_tensors if statistics else (*ctx.saved_tensors, None)
        for place, tensor in zip(ctx.places, tensors, strict=True):
            inputs[place] = tensor
        if torch.is_grad_enabled():  # create_graph=True
            wanted = [place for place in ctx.places if ctx.needs_input_grad[place]]
            return _gradients_of(definition, inputs, wanted, out_gradients[: 1 if statistics else None])
        return tuple(gradients(inputs, out_gradients[0], last) if statistics else gradients(inputs, *out_gradients))

    operator.register_autograd(differentiate, setup_context=save)


def _gradients_of(
    definition: Callable[..., Any], inputs: list[Any], wanted: list[int], out_gradients: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Compute gradients that can be differentiated again."""
    output = definition(*inputs)
    outputs = (output,) if isinstance(output, Tensor) else output[: len(out_gradients)]  # without statistics
    pairs = [pair for pair in zip(outputs, out_gradients, strict=True) if pair[0].requires_grad]
    found = torch.autograd.grad(
        [out for out, _ in pairs],
        [inputs[place] for place in wanted],
        [gradient for _, gradient in pairs],
        create_graph=True,
        allow_unused=True,
    )
    result: list[Tensor | None] = [None] * len(inputs)
    for place, gradient in zip(wanted, found, strict=True):
        result[place] = gradient
    return tuple(result)


def map_entries(operator: Any) -> Any:  # noqa: ANN401
    """Make the rule by which `torch.func.vmap` calls an operator: once for every entry."""

    def rule(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # noqa: ANN401
        mapped = [
            isinstance(x, Tensor) and dim is not None for x, dim in zip(inputs, in_dims, strict=True)
        ]  # lists of numbers have lists of None
        first = [x.movedim(dim, 0) if here else x for x, dim, here in zip(inputs, in_dims, mapped, strict=True)]
        if not info.batch_size:  # the shapes are those of one entry
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


def cast_for_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast tensors as torch's own matrix products are under `torch.autocast`: to its dtype, but for float64."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [
        tensor if tensor is None or tensor.dtype == torch.float64 or tensor.device.type != "cpu" else tensor.to(dtype)
        for tensor in tensors
    ]
