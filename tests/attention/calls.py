"""The samples of all mechanisms as parameters of tests, on every backend and device that is there."""

import pytest
import torch

from budget import Truth, assert_within_budget
from regard.attention import MECHANISMS

from .oracle import truth_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def has_kernel(mechanism, sample, device="cpu", dtype=torch.float32):
    """Whether a fused kernel serves a sample on a device."""
    return not mechanism.unsupported_reasons(**sample.tensors(dtype, device), **sample.options)


def parameters(samples=lambda mechanism: mechanism.samples, mechanisms=MECHANISMS):
    """(mechanism, sample)."""
    return [
        pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}")
        for mechanism in mechanisms
        for sample in samples(mechanism)
    ]


def on_backends(calls, backends=("reference", "fused"), dtype=torch.float32):
    """(mechanism, sample, backend, device): the reference everywhere, kernels where they serve a dtype."""
    return [
        pytest.param(*call.values, backend, device, id=f"{call.id}-{backend}-{device}")
        for call in calls
        for device in DEVICES
        for backend in backends
        if backend == "reference" or has_kernel(*call.values, device, dtype)
    ]


def smallest(mechanism):
    """The sample with the fewest numbers, for checks that cost a call per number."""
    samples = [sample for sample in mechanism.samples if all(tensor.numel() for tensor in sample.tensors().values())]
    return [min(samples, key=lambda sample: sum(tensor.numel() for tensor in sample.tensors().values()))]


CALLS = parameters()
FIRST = parameters(lambda mechanism: mechanism.samples[:1])


def strided(tensor):
    """The same values, neither contiguous nor dense: every second element of a reversed-axes storage."""
    storage = torch.full((*reversed(tensor.shape), 2), torch.nan, dtype=tensor.dtype, device=tensor.device)
    view = storage[..., 0].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


def assert_within_budget_of(mechanism, sample, got, dtype=torch.float32):
    """Hold the outputs of a call, and its gradients where `got` has them, to what rounding in `dtype` allows."""
    truth = truth_of(mechanism, sample, dtype)
    results = tuple(result.cpu() for result in got)
    assert_within_budget(results, Truth(truth.exact[: len(got)], truth.allowed[: len(got)], dtype))
