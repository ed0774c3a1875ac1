"""One contract for all mechanisms: every check runs on every sample of every mechanism, for each of its backends."""

import inspect

import numpy as np
import pytest
import torch

from budget import assert_definition, assert_within_budget, leaves
from regard import attention
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
CANCELED = {"query_bias", "key_bias", "logits_bias"}


def run(mechanism, sample, tensors, backend="reference"):
    return mechanism.function(**tensors, **sample.options, backend=backend)


def run_with_gradients(mechanism, sample, tensors, backend="reference"):
    """The outputs and the gradients of a fixed projection of them, one after the other."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    outputs = leaves(run(mechanism, sample, tensors, backend))
    generator = torch.Generator().manual_seed(99)
    seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    gradients = torch.autograd.grad(outputs, list(tensors.values()), seeds)
    kept = [grad * 0 if name in CANCELED else grad for name, grad in zip(tensors, gradients, strict=True)]
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


@pytest.mark.parametrize(
    "mechanism", [pytest.param(m, id=m.name) for m in MECHANISMS if m.name != "softmax"]
)  # PyTorch's
def test_second_derivatives(mechanism):
    sample = min(mechanism.samples, key=lambda sample: sum(t.numel() for t in sample.tensors().values()))
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(torch.float64).items()}

    def function(*values):
        return run(mechanism, sample, dict(zip(tensors, values, strict=True)), None)

    assert torch.autograd.gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("mechanism", [pytest.param(m, id=m.name) for m in MECHANISMS])
def test_autocast(mechanism):
    """What the reference keeps in float32, the kernel does too."""
    sample = mechanism.samples[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = [leaves(run(mechanism, sample, sample.tensors(), backend)) for backend in (None, "reference")]
    for got, expected in zip(*found, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


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
    torch.use_deterministic_algorithms(True)  # fills uninitialized memory with NaN
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


SCALED = [call for call in FIRST if "scale" in inspect.signature(call.values[0].function).parameters]


@pytest.mark.parametrize(("mechanism", "sample"), SCALED)
def test_scale_that_is_no_number(mechanism, sample):
    for scale in (torch.tensor(0.5), "0.5", True):
        with pytest.raises(TypeError, match="scale must be a number, got"):
            mechanism.function(**sample.tensors(), **sample.options | {"scale": scale})


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


MODULES = {
    "Attention": (attention.Attention, (8, 2), (1, 4, 8)),
    "ClassAttention": (attention.ClassAttention, (8, 2), (1, 4, 8)),
    "TalkingHeadsAttention": (attention.TalkingHeadsAttention, (8, 2), (1, 4, 8)),
    "WindowAttention": (attention.WindowAttention, (8, 2, 2), (1, 4, 4, 8)),
    "NeighborhoodAttention2d": (attention.NeighborhoodAttention2d, (8, 2, 3), (1, 4, 4, 8)),
    "AdditiveAttention": (attention.AdditiveAttention, (8, 2), (1, 4, 8)),
    "EfficientAdditiveAttention": (attention.EfficientAdditiveAttention, (8, 8), (1, 4, 8)),
    "SeparableAttention": (attention.SeparableAttention, (8,), (1, 4, 8)),
}


@pytest.mark.parametrize(("module", "sizes", "shape"), MODULES.values(), ids=MODULES)
class TestModules:
    def test_bad_input(self, module, sizes, shape):
        layer, x = module(*sizes), torch.zeros(shape)
        for bad, message in (
            (x.double(), "dtype"),
            (x.int(), "dtype"),
            (x.to("meta"), "device"),
            (x.tolist(), "torch.Tensor"),
            (None, "torch.Tensor"),
        ):
            with pytest.raises(TypeError, match=message):
                layer(bad)
        for bad, message in ((x[..., :7], "must have 8 channels"), (x[0, 0], "dimensions"), (x[:, :0], "empty")):
            with pytest.raises(ShapeError, match=message):
                layer(bad)

    def test_bad_sizes(self, module, sizes, shape):
        for bad, error in ((0, ShapeError), (-8, ShapeError), (8.0, TypeError), (True, TypeError), ("8", TypeError)):
            with pytest.raises(error):
                module(bad, *sizes[1:])
        with pytest.raises(OptionError, match="did you mean 'fused'"):
            module(*sizes, backend="fuse")
        with pytest.raises(TypeError, match="unexpected keyword"):
            module(*sizes, bakcend=None)

    def test_mixed_precision(self, module, sizes, shape):
        with torch.autocast("cpu", torch.bfloat16):
            assert module(*sizes)(torch.randn(shape)).dtype == torch.bfloat16

    def test_compile(self, module, sizes, shape):
        torch.compiler.reset()
        layer, x = module(*sizes), torch.randn(shape)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("size", [True, 3.0, None, "3", (3, 2.5), (3, True)], ids=str)
def test_sizes_that_are_no_whole_numbers(size):
    x = torch.zeros(1, 6, 6, 2, 4)
    calls = [
        lambda: attention.neighborhood_attention(x, x, x, size),
        lambda: attention.neighborhood_attention(x, x, x, 3, dilation=size),
        lambda: attention.window_attention(x, x, x, size),
        lambda: attention.separable_attention(x[..., 0, :1], x[..., 0, :], x[..., 0, :], patch_size=size),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="whole number"):
            call()


def test_sizes_of_numpy_are_numbers():
    x = torch.randn(1, 6, 6, 2, 4)
    with_ints = attention.neighborhood_attention(x, x, x, 3)
    assert torch.equal(attention.neighborhood_attention(x, x, x, np.int64(3)), with_ints)
    assert torch.equal(attention.neighborhood_attention(x, x, x, np.array([3, 3])), with_ints)


@pytest.mark.parametrize("grid", [8, (), (1, 2, 3, 4), (8.0,), (0, 3), "88"], ids=str)
def test_grids_that_are_none(grid):
    for call in (lambda: attention.neighborhood_bias_index(3, grid), lambda: attention.window_bias_index(grid)):
        with pytest.raises((ShapeError, TypeError), match="grid"):
            call()
