"""The samples of all mechanisms as parameters of tests, on every backend and device that is there."""

import pytest
import torch

from budget import assert_within_budget, leaves
from regard.attention import MECHANISMS

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BROAD = 4  # samples per mechanism that `make test` runs; `make test-all` runs all

# Constants that a softmax cancels: all of their gradient is rounding, with nothing to measure it by; a law bounds it.
CANCELED = {"query_bias", "key_bias", "logits_bias"}


def has_kernel(mechanism, sample, device="cpu"):
    """Whether a fused kernel serves a sample on a device."""
    return not mechanism.unsupported_reasons(**sample.tensors(device=device), **sample.options)


def _marks(mechanism, sample):
    return () if sample in mechanism.samples[:BROAD] else (pytest.mark.exhaustive,)


def parameters(samples=lambda mechanism: mechanism.samples, mechanisms=MECHANISMS):
    """(mechanism, sample)."""
    return [
        pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}", marks=_marks(mechanism, sample))
        for mechanism in mechanisms
        for sample in samples(mechanism)
    ]


def on_backends(calls, backends=("reference", "fused")):
    """(mechanism, sample, backend, device): the reference everywhere, kernels where they serve."""
    return [
        pytest.param(*call.values, backend, device, id=f"{call.id}-{backend}-{device}", marks=call.marks)
        for call in calls
        for device in DEVICES
        for backend in backends
        if backend == "reference" or has_kernel(*call.values, device)
    ]


def smallest(mechanism):
    """The sample with the fewest numbers, for checks that cost a call per number."""
    samples = [sample for sample in mechanism.samples if all(tensor.numel() for tensor in sample.tensors().values())]
    return [min(samples, key=lambda sample: sum(tensor.numel() for tensor in sample.tensors().values()))]


CALLS = parameters()
FIRST = parameters(lambda mechanism: mechanism.samples[:1])


def run(mechanism, sample, tensors, backend="reference"):
    return mechanism.function(**tensors, **sample.options, backend=backend)


def run_with_gradients(mechanism, sample, tensors, backend="reference"):
    """The outputs and the gradients of a fixed projection of them, one after the other."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    outputs = leaves(run(mechanism, sample, tensors, backend))
    generator = torch.Generator().manual_seed(99)
    seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs]
    gradients = torch.autograd.grad(outputs, list(tensors.values()), seeds)
    kept = [grad * 0 if name in CANCELED else grad for name, grad in zip(tensors, gradients, strict=True)]
    return (*(o.detach() for o in outputs), *kept)


def strided(tensor):
    """The same values, neither contiguous nor dense: every second element of a reversed-axes storage."""
    storage = torch.full((*reversed(tensor.shape), 2), torch.nan, dtype=tensor.dtype, device=tensor.device)
    view = storage[..., 0].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


def assert_within_budget_of(mechanism, sample, got, dtype=torch.float32):
    """Hold the outputs of a call, and its gradients where `got` has them, to what rounding in `dtype` allows."""
    tensors = sample.tensors(dtype)
    exact = run_with_gradients(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    plain = run_with_gradients(mechanism, sample, tensors)
    got = tuple(result.cpu() for result in got)
    assert_within_budget(got, plain=plain[: len(got)], exact=exact[: len(got)])
