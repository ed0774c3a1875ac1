"""One contract for all mechanisms: every check on every sample, for each backend on each device that is there."""

from functools import partial
from importlib import import_module

import pytest
import torch

from budget import assert_definition, leaves
from memory import memory_of_nans
from regard.attention import decompositions

from .calls import (
    CALLS,
    FIRST,
    assert_within_budget_of,
    has_kernel,
    on_backends,
    strided,
)
from .oracle import run, run_with_gradients

BACKENDS = on_backends(CALLS)
FUSED = on_backends(CALLS, ["fused"])
calls = pytest.mark.parametrize(("mechanism", "sample"), CALLS)
backends = pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), BACKENDS)
wide = pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), on_backends(CALLS, dtype=torch.float64))
fused = pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), FUSED)


@calls
def test_definition(mechanism, sample):
    tensors = {name: tensor.double() for name, tensor in sample.tensors(torch.float32).items()}
    brute_force = import_module(f"{__package__}.{mechanism.name}.brute_force").brute_force
    assert_definition(partial(run, mechanism, sample), tensors, exact=brute_force(**tensors, **sample.options))


@wide
def test_gradcheck(mechanism, sample, backend, device):
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(torch.float64, device).items()}

    def function(*values):
        return run(mechanism, sample, dict(zip(tensors, values, strict=True)), backend)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), on_backends(FIRST, ["fused"]))
def test_autocast(mechanism, sample, backend, device):
    """What the reference keeps in float32, the kernel does too."""
    with torch.autocast(device, torch.bfloat16):
        found = [leaves(run(mechanism, sample, sample.tensors(device=device), one)) for one in (backend, "reference")]
    for got, expected in zip(*found, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("mechanism", "sample", "backend", "device"), on_backends(FIRST, ["fused", "reference"]))
def test_autocast_of_different_dtypes(mechanism, sample, backend, device):
    """Layers give autocast's dtype, and parameters keep theirs."""
    tensors = sample.tensors(torch.bfloat16, device)
    expected = run(mechanism, sample, tensors, backend)
    *_, last = tensors
    mixed = {**tensors, last: tensors[last].float()}
    with torch.autocast(device, torch.bfloat16):
        found = run(mechanism, sample, mixed, backend)
    assert all(torch.equal(*pair) for pair in zip(leaves(found), leaves(expected), strict=True))
    with pytest.raises(TypeError, match="same dtype"):
        run(mechanism, sample, mixed, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@fused
def test_budget(mechanism, sample, backend, device, dtype):
    got = run_with_gradients(mechanism, sample, sample.tensors(dtype, device), backend)
    assert_within_budget_of(mechanism, sample, got, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@backends
def test_dtypes(mechanism, sample, backend, device, dtype):
    if backend == "fused" and not has_kernel(mechanism, sample, device, dtype):
        pytest.skip("no kernel serves this dtype")
    for result in run_with_gradients(mechanism, sample, sample.tensors(dtype, device), backend):
        assert result.dtype == dtype and result.isfinite().all()


@backends
def test_strided_inputs(mechanism, sample, backend, device):
    views = {name: strided(tensor) for name, tensor in sample.tensors(device=device).items()}
    assert_within_budget_of(mechanism, sample, run_with_gradients(mechanism, sample, views, backend))


@backends
def test_same_bits_again(mechanism, sample, backend, device):
    """Repeated, and on memory that is full of NaN where nothing has been written."""
    first = run_with_gradients(mechanism, sample, sample.tensors(device=device), backend)
    with memory_of_nans():
        again = run_with_gradients(mechanism, sample, sample.tensors(device=device), backend)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@backends
def test_threads(mechanism, sample, backend, device):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got = run_with_gradients(mechanism, sample, sample.tensors(device=device), backend)
            assert_within_budget_of(mechanism, sample, got)
    finally:
        torch.set_num_threads(before)


@backends
def test_inputs_untouched(mechanism, sample, backend, device):
    tensors = sample.tensors(device=device)
    run_with_gradients(mechanism, sample, tensors, backend)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in sample.tensors(device=device).items())


@pytest.mark.one_parameter
@backends
def test_compile(mechanism, sample, backend, device):
    torch.compiler.reset()
    compiled = torch.compile(mechanism.function, fullgraph=True, backend="aot_eager", dynamic=False)
    got = compiled(**sample.tensors(device=device), **sample.options, backend=backend)
    assert_within_budget_of(mechanism, sample, leaves(got))


class Call(torch.nn.Module):
    def __init__(self, mechanism, sample, backend):
        super().__init__()
        self.mechanism, self.sample, self.backend = mechanism, sample, backend

    def forward(self, tensors):
        return run(self.mechanism, self.sample, tensors, self.backend)


def regard_nodes(program):
    return [node for node in program.graph.nodes if str(node.target).startswith("regard.")]


@pytest.mark.one_parameter
@pytest.mark.parametrize(
    ("mechanism", "sample", "backend", "device"), [call for call in BACKENDS if "batch_0" not in call.id]
)
def test_export(mechanism, sample, backend, device):
    """The program of a fused call holds its operator; decomposed, none of ours is left."""
    tensors = sample.tensors(device=device)
    program = torch.export.export(Call(mechanism, sample, backend), (tensors,))
    assert bool(regard_nodes(program)) == (backend == "fused" and mechanism.operator is not None)
    portable = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert not regard_nodes(portable)
    for one in (program, portable):
        assert_within_budget_of(mechanism, sample, leaves(one.module()(tensors)))


@calls
def test_meta_device(mechanism, sample):
    shapes = [result.shape for result in leaves(run(mechanism, sample, sample.tensors()))]
    on_meta = leaves(run(mechanism, sample, sample.tensors(device="meta")))
    assert [result.shape for result in on_meta] == shapes
