"""Call the mechanisms on their samples, with gradients, and compute the exact values and budgets once."""

from functools import cache

import torch

from budget import assert_within_budget, leaves, truth
from regard.attention import MECHANISMS


def run(mechanism, sample, tensors, backend="reference"):
    """Return the outputs of a sample's call."""
    return mechanism.function(**tensors, **sample.options, backend=backend)


def run_with_gradients(mechanism, sample, tensors, backend="reference"):
    """Return the outputs, then the gradients of a fixed projection of the outputs."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    outputs = leaves(run(mechanism, sample, tensors, backend))
    generator = torch.Generator().manual_seed(99)
    grads = [torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one) for one in outputs]
    return *(one.detach() for one in outputs), *torch.autograd.grad(outputs, list(tensors.values()), grads)


@cache
def sample_truth(mechanism_name, sample_name, dtype):
    mechanism = next(one for one in MECHANISMS if one.name == mechanism_name)
    sample = next(one for one in mechanism.samples if one.name == sample_name)
    return truth(lambda tensors: run_with_gradients(mechanism, sample, tensors), sample.tensors(dtype))


def truth_of(mechanism, sample, dtype=torch.float32):
    """Return the exact values of `run_with_gradients` on a sample's tensors in `dtype`, with their budgets."""
    return sample_truth(mechanism.name, sample.name, dtype)


def outputs_and_gradients(function, backend=None, **options):
    """Return a function of the same tensors that returns the outputs, then the gradients of the sum of their sines."""

    def results(*inputs, **tensors):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        outputs = leaves(function(*inputs, **tensors, **options, backend=backend))
        total = sum(output.sin().sum() for output in outputs)
        gradients = torch.autograd.grad(total, [*inputs, *tensors.values()])
        return *(output.detach() for output in outputs), *gradients

    return results


def assert_kernel_within_budget(function, tensors, draws=2, **options):
    """Hold a kernel's outputs and gradients to the budget of its reference."""
    expected = truth(outputs_and_gradients(function, **options), **tensors, draws=draws)
    assert_within_budget(outputs_and_gradients(function, backend="fused", **options)(**tensors), expected)
