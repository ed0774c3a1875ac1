"""One operator of PyTorch per mechanism: its definition, and a kernel for each type of device that has one.

`Operator` derives everything that PyTorch asks of an operator from four facts: the schema, the reference, the shapes of
the outputs, and the kernels. A kernel fills tensors that the operator has allocated and knows nothing of autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from regard.attention._autocast import cast
from regard.attention._compile_cache import separate_compile_cache
from regard.attention._flops import register_flops
from regard.attention._transforms import derivative, map_batch, map_entries, untraceable_reasons

Result = TypeVar("Result")
Inputs = Sequence[Any]


@dataclass(frozen=True)
class Kernel:
    """The kernels of one mechanism for some types of device.

    Attributes:
        devices: the device types, such as "cpu".
        forward: takes the empty outputs, then the operator's inputs; fills the outputs.
        backward: takes a list of empty gradients, None where an input is not a tensor, then the gradients of the
            outputs, the inputs and what the operator saved; fills the gradients.
        reasons: takes the checked arguments and says why these kernels cannot serve them; empty if they can.
    """

    devices: tuple[str, ...]
    forward: Callable[..., None]
    backward: Callable[..., None]
    reasons: Callable[[Any], list[str]]


class Operator(Generic[Result]):
    """A differentiable operator of PyTorch.

    Args:
        schema: name, inputs and outputs, as `torch.library` writes them. The inputs are the reference's arguments in
            the reference's order, without `dropout_p`.
        reference: defines the operator. It serves exporters, and gradients that are differentiated again.
        outputs: allocates the outputs for given inputs.
        kernels: at most one per device type; the device of the inputs chooses at every call.
        batched: the inputs that have a batch axis, their first.
        statistics: number of trailing outputs that only the backward pass reads. The reference does not return them.
        saves_outputs: whether the backward pass reads the other outputs too, before the statistics.
        autocast: whether `torch.autocast` casts the inputs, as it does for PyTorch's matrix products.
        flops: operations of the forward and the backward pass, functions of the inputs with shapes in place of tensors.
    """

    def __init__(
        self,
        schema: str,
        *,
        reference: Callable[..., Result],
        outputs: Callable[..., tuple[Tensor, ...]],
        kernels: Sequence[Kernel],
        batched: Sequence[str] = ("query", "key", "value"),
        statistics: int = 0,
        saves_outputs: bool = False,
        autocast: bool = False,
        flops: tuple[Callable[..., int], Callable[..., int]] | None = None,
    ) -> None:
        self.name, _, signature = schema.partition("(")
        self.reference, self.outputs = reference, outputs
        self.kernels = {device: kernel for kernel in kernels for device in kernel.devices}
        self.statistics, self.autocast = statistics, autocast
        parsed = torch._C.parse_schema(schema)
        self.inputs = tuple(argument.name for argument in parsed.arguments)
        self.num_grads = len(parsed.returns) - statistics
        self.is_single = len(parsed.returns) == 1
        self.forward = self._define(self.name, f"({signature}", self._run_forward)
        self.first_saved = 0 if saves_outputs else self.num_grads
        saved = "".join(f", Tensor saved_{index}" for index in range(self.first_saved, len(parsed.returns)))
        grads = "".join(f"Tensor grad_{index}, " for index in range(self.num_grads))
        backward = f"({grads}{signature.partition(')')[0]}{saved}) -> Tensor[]"
        self.backward = self._define(f"{self.name}_backward", backward, self._run_backward)
        separate_compile_cache(f"{schema} {backward}")
        self.forward.register_fake(lambda *inputs: self._unwrap(outputs(*inputs)))
        self.backward.register_fake(lambda *inputs: _present(_empty_grads(self._split(inputs)[1])))
        self.forward.register_autograd(self._differentiate, setup_context=self._save)
        self.backward.register_autograd(self._differentiate_again, setup_context=_save_all)
        places = [self.inputs.index(name) for name in batched if name in self.inputs]
        self.forward.register_vmap(map_batch(self.forward, places))
        self.backward.register_vmap(map_entries(self.backward))  # gradients of parameters are sums over the batch
        if flops is not None:
            register_flops(getattr(torch.ops.regard, self.name), flops[0])
            skipped = self.num_grads
            register_flops(
                getattr(torch.ops.regard, f"{self.name}_backward"),
                lambda *shapes, **_: flops[1](*shapes[skipped : skipped + len(self.inputs)]),
            )

    def __call__(self, *inputs: object) -> Result:
        """Run the kernel of the inputs' device; the result has the form of the reference's."""
        if self.autocast:
            inputs = cast(inputs)
        result = self.forward(*inputs)
        if not self.statistics:
            return result
        return result[0] if self.num_grads == 1 else result[: self.num_grads]

    def reasons(self, arguments: Any) -> list[str]:  # noqa: ANN401  # each mechanism's own named tuple
        """Return the reasons why no kernel serves these checked arguments; empty if one does."""
        device = arguments.query.device
        if device.type in self.kernels:
            reasons = self.kernels[device.type].reasons(arguments)
        else:
            reasons = [f"there are kernels for {', '.join(self.kernels)}, and the tensors are on {device}"]
        if getattr(arguments, "dropout_p", 0.0) > 0:
            reasons.append("the kernel has no dropout of attention weights")
        return reasons + untraceable_reasons()

    def decompositions(self) -> dict[torch._ops.OpOverload, Callable[..., Any]]:
        """Map both operators to compositions of PyTorch's own."""
        return {self.forward._opoverload: self._decompose, self.backward._opoverload: self._decompose_backward}

    def _define(self, name: str, schema: str, run: Callable[..., Any]) -> CustomOpDef:
        def on(device: str) -> Callable[..., Any]:
            return lambda *inputs: run(self.kernels[device], *inputs)

        first, *others = self.kernels
        define = torch.library.custom_op(f"regard::{name}", mutates_args=(), device_types=first, schema=schema)
        operator: CustomOpDef = define(on(first))
        for device in others:
            operator.register_kernel(device)(on(device))
        return operator

    def _run_forward(self, kernel: Kernel, *inputs: object) -> Tensor | tuple[Tensor, ...]:
        outputs = self.outputs(*inputs)
        if outputs[0].numel():
            kernel.forward(*outputs, *inputs)
        return self._unwrap(outputs)

    def _run_backward(self, kernel: Kernel, *everything: object) -> list[Tensor]:
        grad_outputs, inputs, saved = self._split(everything)
        grads = _empty_grads(inputs)
        if not grad_outputs[0].numel():
            return [grad.zero_() for grad in _present(grads)]
        kernel.backward(grads, *grad_outputs, *inputs, *saved)
        return _present(grads)

    def _decompose(self, *inputs: object) -> Tensor | tuple[Tensor, ...]:
        result: Any = self.reference(*inputs)
        outputs: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        if self.statistics:  # a decomposed program does not read them
            outputs += tuple(map(torch.zeros_like, self.outputs(*inputs)[-self.statistics :]))
        return self._unwrap(outputs)

    def _decompose_backward(self, *everything: object) -> list[Tensor]:
        grad_outputs, inputs, _ = self._split(everything)
        places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
        with torch.enable_grad():
            grads = derivative(self.reference, inputs, places, grad_outputs, create_graph=False)
        return [
            torch.zeros_like(inputs[place]) if grad is None else grad for place, grad in zip(places, grads, strict=True)
        ]

    def _save(self, ctx: Any, inputs: Inputs, output: Any) -> None:  # noqa: ANN401  # autograd's signature
        outputs = (output,) if self.is_single else output
        ctx.mark_non_differentiable(*outputs[self.num_grads :])
        _save_all(ctx, (*inputs, *outputs[self.first_saved :]), output)

    def _differentiate(self, ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        everything = _restore(ctx)
        grads = iter(self.backward(*grad_outputs[: self.num_grads], *everything))
        inputs = everything[: len(self.inputs)]
        return tuple(next(grads) if isinstance(value, Tensor) else None for value in inputs)

    def _differentiate_again(self, ctx: Any, grad_grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        everything = _restore(ctx)
        grad_outputs, inputs, saved = self._split(everything)
        inner = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]

        def first_derivative(*values: object) -> tuple[Tensor, ...]:
            outer_grads, outer, _ = self._split(values)
            grads = derivative(self.reference, outer, inner, outer_grads, create_graph=True)
            return tuple(
                torch.zeros_like(outer[place]) if grad is None else grad
                for place, grad in zip(inner, grads, strict=True)
            )

        both = [*grad_outputs, *inputs]
        wanted = [
            place for place, value in enumerate(both) if ctx.needs_input_grad[place] and isinstance(value, Tensor)
        ]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            found = derivative(first_derivative, both, wanted, grad_grads, create_graph=create_graph)
        result: list[Tensor | None] = [None] * (len(both) + len(saved))
        for place, grad in zip(wanted, found, strict=True):
            result[place] = grad
        return tuple(result)

    def _split(self, everything: Inputs) -> tuple[Inputs, Inputs, Inputs]:
        """Split the inputs of the backward operator: gradients of outputs, inputs, statistics."""
        end = self.num_grads + len(self.inputs)
        return everything[: self.num_grads], everything[self.num_grads : end], everything[end:]

    def _unwrap(self, outputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return outputs[0] if self.is_single else outputs


def _empty_grads(inputs: Inputs) -> list[Tensor | None]:
    return [value.new_empty(value.shape) if isinstance(value, Tensor) else None for value in inputs]


def _present(grads: Sequence[Tensor | None]) -> list[Tensor]:
    return [grad for grad in grads if grad is not None]


def _save_all(ctx: Any, inputs: Inputs, output: Any) -> None:  # noqa: ANN401  # autograd's signature
    ctx.options = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[place] for place in ctx.places))


def _restore(ctx: Any) -> list[Any]:  # noqa: ANN401  # autograd's own object
    values = list(ctx.options)
    for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        values[place] = tensor
    return values
