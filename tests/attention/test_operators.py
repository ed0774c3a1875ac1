"""The registry and the operators: every fact of a mechanism in one order, and what PyTorch asks of an operator."""

import inspect

import pytest
import torch

from budget import leaves
from regard.attention import MECHANISMS, decompositions

from .calls import DEVICES, has_kernel, on_backends, parameters, smallest
from .oracle import run

OPERATORS = [pytest.param(mechanism, id=mechanism.name) for mechanism in MECHANISMS if mechanism.operator]
exhaustive = pytest.mark.exhaustive

OPCHECKED = [  # a few seconds each
    pytest.param(*call.values, id=call.id, marks=() if call.values[1] is call.values[0].samples[0] else exhaustive)
    for call in parameters()
    if call.values[0].operator
]


def names(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("mechanism", [pytest.param(mechanism, id=mechanism.name) for mechanism in MECHANISMS])
def test_one_order_of_arguments(mechanism):
    """Function, checks, reference, operator and kernels spell the arguments in one order, `dropout_p` last."""
    sample = mechanism.samples[0]
    arguments, _ = mechanism.prepare(**sample.tensors(), **sample.options)
    order = list(arguments._fields)
    assert [name for name in names(mechanism.function) if name in order] == order
    assert [name for name in names(mechanism.prepare) if name in order] == order
    assert set(names(mechanism.function)) - set(order) <= {"small_grid", "backend"}
    assert [name for name in names(mechanism.weights) if name in order] == [
        name for name in order if name in names(mechanism.weights)
    ]
    if mechanism.operator:
        assert names(mechanism.operator.reference) == order
        inputs = [name for name in order if name != "dropout_p"]
        assert list(mechanism.operator.inputs) == inputs
        for kernel in mechanism.operator.kernels.values():
            assert [name for name in names(kernel.forward) if name in order] == inputs
            assert [name for name in names(kernel.backward) if name in order] == inputs


INFERENCE = {"regard::dense", "regard::depthwise"}
"""Operators on weights that were packed for this machine: no exporter gets to see them."""


def test_every_operator_has_a_decomposition():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("regard::")} - INFERENCE
    assert registered == {str(overload.name()) for overload in decompositions()} != set()


def operator_calls(mechanism, sample, device, dtype=torch.float32):
    """The inputs of the forward and of the backward operator for one call."""
    arguments, _ = mechanism.prepare(**sample.tensors(dtype, device), **sample.options)
    operator = mechanism.operator
    inputs = [
        value.detach().requires_grad_() if isinstance(value, torch.Tensor) else value
        for value in arguments[: len(operator.inputs)]
    ]
    outputs = leaves(operator.forward(*inputs))
    grads = [torch.randn_like(output).requires_grad_() for output in outputs[: operator.num_grads]]
    saved = [output.detach() for output in outputs[operator.first_saved :]]
    return (operator.forward, inputs), (operator.backward, [*grads, *inputs, *saved])


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("mechanism", "sample"), OPCHECKED)
def test_opcheck(mechanism, sample, device):
    """Schema, autograd registration, fake tensors, and `torch.compile` with static and dynamic shapes."""
    if not has_kernel(mechanism, sample, device):
        pytest.skip("no kernel serves this sample here")
    for operator, inputs in operator_calls(mechanism, sample, device):
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        if operator is mechanism.operator.forward or not is_singular(mechanism, sample):
            checks += ("test_aot_dispatch_static", "test_aot_dispatch_dynamic")
        torch.library.opcheck(operator, inputs, test_utils=checks)


def is_singular(mechanism, sample):
    """Whether second derivatives are NaN in the reference too. opcheck finds NaN unequal to NaN."""
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(torch.float64).items()}
    outputs = leaves(run(mechanism, sample, tensors, "reference"))
    first = torch.autograd.grad(sum(map(torch.sum, outputs)), tensors.values(), create_graph=True)
    second = torch.autograd.grad(sum(map(torch.sum, first)), tensors.values(), materialize_grads=True)
    return any(grad.isnan().any() for grad in second)


def test_what_is_singular():
    """The root of a sum of squares that are all 0 has one derivative, by convention, and not two."""
    singular = {call.id for call in parameters() if call.values[0].operator and is_singular(*call.values)}
    assert singular == {"efficient_additive-scale_0"}


@pytest.mark.parametrize(
    ("mechanism", "sample", "backend", "device"), on_backends(parameters(smallest), dtype=torch.float64)
)
def test_second_derivatives(mechanism, sample, backend, device):
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(torch.float64, device).items()}

    def function(*values):
        return run(mechanism, sample, dict(zip(tensors, values, strict=True)), backend)

    if mechanism.operator is None and backend == "fused":  # PyTorch's own kernel has first derivatives only
        with pytest.raises(RuntimeError, match="derivative for aten::_scaled_dot_product"):
            torch.autograd.gradgradcheck(function, tuple(tensors.values()), fast_mode=True)
    else:
        assert torch.autograd.gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("mechanism", OPERATORS)
def test_third_derivatives(mechanism):
    """A gradient of a gradient that can be differentiated again, by comparison with the reference.

    Every input is computed from the first one too, so that a gradient that counted another's path would show.
    """
    (sample,) = smallest(mechanism)
    found = []
    for backend in ("fused", "reference"):
        values = [tensor.requires_grad_() for tensor in sample.tensors(torch.float64).values()]
        tensors = dict(zip(sample.shapes, [values[0], *(v + values[0].mean() for v in values[1:])], strict=True))
        total = sum(output.sin().sum() for output in leaves(run(mechanism, sample, tensors, backend)))
        for _ in range(3):
            grads = torch.autograd.grad(total, values, create_graph=True, materialize_grads=True)
            total = sum(grad.sin().sum() for grad in grads)
        found.append(total)
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # PyTorch's own, of its own kernel
@pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), on_backends(parameters(), dtype=torch.float64))
def test_vmap(mechanism, sample, backend, device):
    """Every tensor mapped alone, then all at once, over axes that are not the first. float64 rounds little."""
    if "batch_0" in sample.name:
        pytest.skip("an empty batch has no entries to compare")
    tensors = sample.tensors(torch.float64, device=device)
    rows = {name: torch.stack([tensor, 0.5 * tensor, -tensor]) for name, tensor in tensors.items()}
    for mapped in ({name} for name in tensors), [set(tensors)]:
        for chosen in mapped:
            given = {name: rows[name].movedim(0, -1) if name in chosen else tensors[name] for name in tensors}
            in_dims = tuple(-1 if name in chosen else None for name in tensors)
            got = torch.vmap(
                lambda *values: run(mechanism, sample, dict(zip(tensors, values, strict=True)), backend), in_dims
            )(*given.values())
            for entry in range(3):
                one = {name: rows[name][entry] if name in chosen else tensors[name] for name in tensors}
                for output, expected in zip(leaves(got), leaves(run(mechanism, sample, one, backend)), strict=True):
                    torch.testing.assert_close(output[entry], expected)


@pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), on_backends(parameters()))
def test_inputs_that_need_no_gradient(mechanism, sample, backend, device):
    """One gradient alone equals the same gradient among all, and a call without gradients has the same output."""
    tensors = sample.tensors(device=device)

    def outputs_and_gradients(wanted):
        values = {name: tensor.detach().requires_grad_(name in wanted) for name, tensor in tensors.items()}
        outputs = leaves(run(mechanism, sample, values, backend))
        needed = [values[name] for name in wanted]
        total = sum(output.sum() for output in outputs)
        return outputs, torch.autograd.grad(total, needed, materialize_grads=True) if needed else ()

    everything, together = outputs_and_gradients(list(tensors))
    for name, expected in zip(tensors, together, strict=True):
        _, (alone,) = outputs_and_gradients([name])
        torch.testing.assert_close(alone, expected)
    plain, _ = outputs_and_gradients([])
    assert not any(output.requires_grad for output in plain)
    for output, expected in zip(plain, everything, strict=True):
        torch.testing.assert_close(output, expected.detach())
