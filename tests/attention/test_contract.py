"""One contract for all mechanisms: every check runs on every sample of every mechanism, for each of its backends."""

import pytest
import torch

from budget import assert_definition, assert_within_budget, leaves
from regard.attention import MECHANISMS
from regard.errors import OptionError, ShapeError, UnsupportedError

from .brute_force import BRUTE_FORCE

CALLS = [pytest.param(m, s, id=f"{m.name}-{s.name}") for m in MECHANISMS for s in m.samples]
FIRST = [pytest.param(m, m.samples[0], id=m.name) for m in MECHANISMS]


def fused_exists(mechanism, sample, dtype=torch.float32):
    return not mechanism.unsupported_reasons(**sample.tensors(dtype), **sample.options)


FUSED = [call for call in CALLS if fused_exists(*call.values)]
BACKENDS = [pytest.param(*call.values, "reference", id=f"{call.id}-reference") for call in CALLS] + [
    pytest.param(*call.values, "fused", id=f"{call.id}-fused") for call in FUSED
]

# Constants that a softmax cancels: all of their gradient is rounding, with nothing to measure it by; a law bounds it.
CANCELLED = {"query_bias", "key_bias", "logits_bias"}


def run(mechanism, sample, tensors, backend="reference"):
    return mechanism.function(**tensors, **sample.options, backend=backend)


def run_with_gradients(mechanism, sample, tensors, backend="reference"):
    """The outputs and the gradients of a fixed projection of them, one after the other."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    outputs = leaves(run(mechanism, sample, tensors, backend))
    generator = torch.Generator().manual_seed(99)
    seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    gradients = torch.autograd.grad(outputs, list(tensors.values()), seeds)
    kept = [grad * 0 if name in CANCELLED else grad for name, grad in zip(tensors, gradients, strict=True)]
    return (*(o.detach() for o in outputs), *kept)


def strided(tensor):
    """The same values, neither contiguous nor dense: every second element of a reversed-axes storage."""
    storage = torch.full((*reversed(tensor.shape), 2), torch.nan, dtype=tensor.dtype)
    view = storage[..., 0].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_definition(mechanism, sample):
    single = sample.tensors(torch.float32)
    double = {name: tensor.double() for name, tensor in single.items()}
    exact = BRUTE_FORCE[mechanism.name](**double, **sample.options)
    assert_definition(run(mechanism, sample, double), single=run(mechanism, sample, single), exact=exact)


@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_gradcheck(mechanism, sample):
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(torch.float64).items()}

    def function(*values):
        return run(mechanism, sample, dict(zip(tensors, values, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("mechanism", "sample"), FUSED)
def test_budget(mechanism, sample, dtype):
    tensors = sample.tensors(dtype)
    exact = run_with_gradients(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    plain = run_with_gradients(mechanism, sample, tensors)
    assert_within_budget(run_with_gradients(mechanism, sample, tensors, "fused"), plain=plain, exact=exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("mechanism", "sample", "backend"), BACKENDS)
def test_dtypes(mechanism, sample, backend, dtype):
    for result in run_with_gradients(mechanism, sample, sample.tensors(dtype), backend):
        assert result.dtype == dtype and result.isfinite().all()


@pytest.mark.parametrize(("mechanism", "sample", "backend"), BACKENDS)
def test_strided_inputs(mechanism, sample, backend):
    tensors = sample.tensors()
    exact = run_with_gradients(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    plain = run_with_gradients(mechanism, sample, tensors)
    views = {name: strided(tensor) for name, tensor in tensors.items()}
    assert_within_budget(run_with_gradients(mechanism, sample, views, backend), plain=plain, exact=exact)


@pytest.mark.parametrize(("mechanism", "sample", "backend"), BACKENDS)
def test_same_bits_again(mechanism, sample, backend):
    """Repeated, and on memory that is full of NaN where nothing has been written."""
    first = run_with_gradients(mechanism, sample, sample.tensors(), backend)
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    try:
        again = run_with_gradients(mechanism, sample, sample.tensors(), backend)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(("mechanism", "sample", "backend"), BACKENDS)
def test_threads(mechanism, sample, backend):
    tensors = sample.tensors()
    exact = run_with_gradients(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    plain = run_with_gradients(mechanism, sample, tensors)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got = run_with_gradients(mechanism, sample, tensors, backend)
            assert_within_budget(got, plain=plain, exact=exact)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_inputs_untouched(mechanism, sample):
    tensors = sample.tensors()
    run_with_gradients(mechanism, sample, tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in sample.tensors().items())


@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_compile(mechanism, sample):
    torch.compiler.reset()
    tensors = sample.tensors()
    compiled = torch.compile(mechanism.function, fullgraph=True, backend="aot_eager", dynamic=False)
    got = compiled(**tensors, **sample.options)
    exact = run(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    assert_within_budget(got, plain=run(mechanism, sample, tensors), exact=exact)


class Call(torch.nn.Module):
    def __init__(self, mechanism, sample):
        super().__init__()
        self.mechanism, self.sample = mechanism, sample

    def forward(self, tensors):
        return run(self.mechanism, self.sample, tensors)


@pytest.mark.parametrize(("mechanism", "sample"), [call for call in CALLS if "batch_0" not in call.id])
def test_export(mechanism, sample):
    tensors = sample.tensors()
    program = torch.export.export(Call(mechanism, sample), (tensors,)).run_decompositions()
    assert not [node for node in program.graph.nodes if str(node.target).startswith("regard.")]
    exact = run(mechanism, sample, {name: tensor.double() for name, tensor in tensors.items()})
    assert_within_budget(program.module()(tensors), plain=run(mechanism, sample, tensors), exact=exact)


@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_meta_device(mechanism, sample):
    shapes = [result.shape for result in leaves(run(mechanism, sample, sample.tensors()))]
    on_meta = leaves(run(mechanism, sample, sample.tensors(device="meta")))
    assert [result.shape for result in on_meta] == shapes


@pytest.mark.parametrize(("mechanism", "sample"), FIRST)
class TestBadInput:
    def call(self, mechanism, sample, **changed):
        return mechanism.function(**{**sample.tensors(), **sample.options, **changed})

    def each(self, sample, change):
        return [{name: change(tensor)} for name, tensor in sample.tensors().items()]

    def test_integers(self, mechanism, sample):
        for changed in self.each(sample, torch.Tensor.long):
            with pytest.raises(TypeError, match=f"{next(iter(changed))} must be a floating-point tensor"):
                self.call(mechanism, sample, **changed)

    def test_no_tensor(self, mechanism, sample):
        for changed in self.each(sample, torch.Tensor.tolist):
            with pytest.raises(TypeError, match=f"{next(iter(changed))} must be a torch.Tensor, got list"):
                self.call(mechanism, sample, **changed)

    def test_mixed_dtypes(self, mechanism, sample):
        for changed in self.each(sample, torch.Tensor.double):
            with pytest.raises(TypeError, match="same dtype"):
                self.call(mechanism, sample, **changed)

    def test_mixed_devices(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: tensor.to("meta")):
            with pytest.raises(TypeError, match="same device"):
                self.call(mechanism, sample, **changed)

    def test_ranks(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: tensor[(None,) * 5]):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)
        for changed in self.each(sample, torch.Tensor.sum):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)

    def test_empty(self, mechanism, sample):
        for axis in range(1, sample.tensors()["query"].ndim):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, query=sample.tensors()["query"].narrow(axis, 0, 0))

    def test_one_size_off(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: torch.cat([tensor, tensor[..., :1]], -1)):
            if next(iter(changed)) == "value":  # its width is free
                continue
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)

    def test_misspelt_argument(self, mechanism, sample):
        with pytest.raises(TypeError, match="unexpected keyword"):
            self.call(mechanism, sample, sclae=1.0)

    def test_unknown_backend(self, mechanism, sample):
        with pytest.raises(OptionError, match="unknown backend 'fusd'; did you mean 'fused'"):
            self.call(mechanism, sample, backend="fusd")

    def test_explicit_request_never_falls_back(self, mechanism, sample):
        reasons = mechanism.unsupported_reasons(**sample.tensors(device="meta"), **sample.options)
        if not reasons:
            reasons = mechanism.unsupported_reasons(**sample.tensors(), **sample.options, dropout_p=0.5)
            changed = {"dropout_p": 0.5}
        else:
            changed = sample.tensors(device="meta")
        with pytest.raises(UnsupportedError) as raised:
            self.call(mechanism, sample, **changed, backend="fused")
        assert reasons and all(reason in str(raised.value) for reason in reasons)
