"""The native core: every instruction set gives the same mathematics, and the operator is a good citizen of PyTorch."""

import ctypes
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_definition, assert_within_budget, error, leaves
from regard.attention import (
    MECHANISMS,
    NeighborhoodAttention2d,
    WindowAttention,
    _native,
    additive_attention,
    decompositions,
    efficient_additive_attention,
    neighborhood,
    neighborhood_attention,
    talking_heads_attention,
    window_attention,
)
from regard.attention._native import loader
from regard.errors import UnsupportedError

from .neighborhood.grids import GRIDS
from .neighborhood.strategies import neighborhood_axes
from .test_contract import run_with_gradients

LOCAL = {
    "neighborhood": partial(neighborhood_attention, kernel_size=3),
    "window": partial(window_attention, window_size=3, shift_size=1),
}
local = pytest.mark.parametrize("attention", LOCAL.values(), ids=LOCAL)
CALLS = [
    pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}")
    for mechanism in MECHANISMS
    if mechanism.name != "softmax"  # PyTorch's own kernels
    for sample in mechanism.samples
]
NATIVE = loader.NATIVE
NATIVE_FOLDERS = tuple(_native.__path__)
needs_native = pytest.mark.skipif(NATIVE.library is None, reason=f"no kernels in this install: {NATIVE.problem}")
INSTRUCTION_SETS = loader.RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("portable",))


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_instruction_sets(mechanism, sample, name, monkeypatch):
    file = next(file for folder in _native.__path__ for file in Path(folder).glob(f"*regard_{name}.*"))
    monkeypatch.setattr(loader, "NATIVE", loader.Native(ctypes.CDLL(str(file)), name, ""))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensors = sample.tensors(dtype)
        exact = run_with_gradients(mechanism, sample, {key: tensor.double() for key, tensor in tensors.items()})
        plain = run_with_gradients(mechanism, sample, tensors)
        got = run_with_gradients(mechanism, sample, tensors, "fused")
        assert_within_budget(got, plain=plain, exact=exact)


@needs_native
@pytest.mark.parametrize(("grid", "heads", "head_dim", "kernel", "options"), GRIDS, ids=str)
def test_larger_grids(grid, heads, head_dim, kernel, options):
    tensors = dict(zip(("query", "key", "value"), draw(3, 1, *grid, heads, head_dim), strict=True))
    tensors["bias"] = draw(heads, *(2 * size - 1 for size in kernel))
    assert_kernel_within_budget(neighborhood_attention, tensors, kernel_size=kernel, **options)


def with_gradients(attention, tensors, backend, **options):
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    out = attention(**tensors, **options, backend=backend)
    return out.detach(), *torch.autograd.grad(out.sin().sum(), list(tensors.values()))


def assert_kernel_within_budget(attention, tensors, **options):
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    assert_within_budget(
        with_gradients(attention, tensors, "fused", **options),
        plain=with_gradients(attention, tensors, "reference", **options),
        exact=with_gradients(attention, wide, "reference", **options),
    )


@needs_native
@settings(max_examples=50)
@given(data=st.data())
def test_any_options_and_strides(data):
    """Outputs and gradients for random grids of one to three axes, options and memory layouts.

    Held to rounding in float64 by the errors of kernel and reference in float32, since both round in float64.
    """
    axes = data.draw(st.integers(1, 3))
    longest = {1: 40, 2: 20, 3: 9}[axes]
    grid, kernel, dilation, stride, causal = data.draw(neighborhood_axes(axes, longest, kernel=9, stride=5))
    batch, heads = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 5))
    dims = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    tensors = {}
    for name, dim in zip(("query", "key", "value"), (dims[0], dims[0], dims[1]), strict=True):
        shape = (batch, *grid, heads, dim)
        order = data.draw(st.permutations(range(len(shape))))
        drawn = torch.randn(*(shape[axis] for axis in order), generator=generator)
        tensors[name] = drawn.permute(*(order.index(axis) for axis in range(len(shape))))
    if data.draw(st.booleans()):
        tensors["bias"] = torch.randn(heads, *(2 * size - 1 for size in kernel), generator=generator)
    options = {"kernel_size": kernel, "dilation": dilation, "stride": stride, "is_causal": causal}
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    exact = with_gradients(neighborhood_attention, wide, "reference", **options)
    singles = [with_gradients(neighborhood_attention, tensors, each, **options) for each in ("fused", "reference")]
    rounded = [max(pair, key=lambda one: error(one, truth)) for *pair, truth in zip(*singles, exact, strict=True)]
    assert_definition(
        with_gradients(neighborhood_attention, wide, "fused", **options), single=tuple(rounded), exact=exact
    )


@needs_native
@pytest.mark.parametrize("seed", range(4))
def test_wide_heads(seed):
    """Long sums round more: the kernel must not add up all channels in one go."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 1, 14, 14, 2, 256, generator=generator).unbind()
    assert_kernel_within_budget(neighborhood_attention, {"query": query, "key": key, "value": value}, kernel_size=7)


@needs_native
def test_default_on_the_cpu():
    query, key, value = draw(3, 1, 6, 6, 2, 4)
    with torch.profiler.profile() as profile:
        neighborhood_attention(query, key, value, 3)
    assert "regard::neighborhood_attention" in {event.key for event in profile.key_averages()}


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", LOCAL)
def test_opcheck(name, axes, permuted):
    tensors = [*draw(3, 2, *[6] * axes, 2, 8), torch.randn(2, *[5] * axes)]
    if permuted:
        tensors = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    options = {
        "neighborhood": ([3] * axes, [1] * axes, [1] * axes, [False] * axes, 0.5),
        "window": ([3] * axes, [1] * axes, 0.5),
    }
    operator = getattr(torch.ops.regard, f"{name}_attention").default
    torch.library.opcheck(operator, (*tensors, *options[name]))
    torch.library.opcheck(operator, (*tensors[:3], None, *options[name]))


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_of_talking_heads(bias):
    query, key = draw(2, 2, 9, 3, 8)
    value = torch.randn(2, 9, 2, 5)
    mixes = [torch.randn(4, 3), torch.randn(2, 4), *((torch.randn(4), torch.randn(2)) if bias else (None, None))]
    tensors = [None if tensor is None else tensor.requires_grad_() for tensor in (query, key, value, *mixes)]
    torch.library.opcheck(torch.ops.regard.talking_heads_attention.default, (*tensors, 0.5))


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
def test_opcheck_of_the_pooled_family():
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 2, 12, 7))
    weight, score = torch.randn(7, requires_grad=True), torch.randn(2, 12, 1, requires_grad=True)
    operators = torch.ops.regard
    tokens = [tensor.detach().unflatten(-1, (1, 7)).requires_grad_() for tensor in (query, key)]
    weights = [torch.randn(1, 7, requires_grad=True) for _ in range(2)]
    torch.library.opcheck(operators.additive_attention.default, (*tokens, *weights, None, None, 0.5))
    for norm in range(3):
        torch.library.opcheck(operators.efficient_additive_attention.default, (query, key, weight, norm, 0.5))
    torch.library.opcheck(operators.separable_attention.default, (score, key, value, [3, 4], [3, 4], [1, 2]))


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_pooled_family_has_the_same_bits_for_any_number_of_threads(threads):
    query, key = draw(2, 3, 150, 40)
    expected = efficient_additive_attention(query, key, query[0, 0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = efficient_additive_attention(query, key, query[0, 0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@needs_native
def test_talking_heads_in_blocks():
    """More queries than a block has, more than a vector of heads, and a batch."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 150, 17, 8, generator=generator).unbind()
    mixes = torch.randn(2, 17, 17, generator=generator).unbind()
    tensors = dict(
        zip(("query", "key", "value", "logits_mix", "weights_mix"), (query, key, value, *mixes), strict=True)
    )
    tensors["weights_bias"] = torch.randn(17, generator=generator)
    assert_kernel_within_budget(talking_heads_attention, tensors)


@needs_native
@local
def test_vmap(attention):
    query, key, value = draw(3, 5, 2, 6, 9, 2, 4)
    tables = torch.randn(5, 2, 5, 5)

    def attend(query, key, value, bias):
        return attention(query, key, value, bias=bias)

    shared = torch.stack([attend(*one, tables[0]) for one in zip(query, key, value, strict=True)])
    assert torch.equal(torch.vmap(attend, in_dims=(0, 0, 0, None))(query, key, value, tables[0]), shared)
    own = torch.stack([attend(*one) for one in zip(query, key, value, tables, strict=True)])
    assert torch.equal(torch.vmap(attend)(query, key, value, tables), own)
    one_key = torch.stack([attend(q, key[0], v, tables[0]) for q, v in zip(query, value, strict=True)])
    assert torch.equal(torch.vmap(attend, in_dims=(0, None, 0, None))(query, key[0], value, tables[0]), one_key)


@needs_native
@local
def test_batched_gradients(attention):
    """Rows of a Jacobian at once; the bias gradient of one must not mix with another's."""
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 1, 3, 6, 2, 4))
    bias = torch.randn(2, 5, 5, requires_grad=True)
    inputs = [query, key, value, bias]
    out = attention(query, key, value, bias=bias)
    directions = torch.randn(3, *out.shape)
    together = torch.func.vmap(lambda one: torch.autograd.grad(out, inputs, one, retain_graph=True))(directions)
    for index, direction in enumerate(directions):
        alone = torch.autograd.grad(out, inputs, direction, retain_graph=True)
        assert all(torch.equal(rows[index], one) for rows, one in zip(together, alone, strict=True))


def attending(attention, key, value, backend):
    return lambda query: attention(query, key, value, backend=backend)


TRANSFORMS = {
    "func.grad": lambda call, x: torch.func.grad(lambda x: call(x).sin().sum())(x),
    "per sample": lambda call, x: torch.func.vmap(torch.func.grad(lambda x: call(x).sin().sum()))(torch.stack([x, -x])),
    "jvp": lambda call, x: torch.func.jvp(call, (x,), (x.cos(),))[1],
    "jit.trace": lambda call, x: torch.jit.trace(call, (x,), check_trace=False)(-x),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@local
def test_transforms_take_the_reference(attention, transform):
    query, key, value = draw(3, 1, 6, 6, 2, 4)
    got, expected = (transform(attending(attention, key, value, backend), query) for backend in (None, "reference"))
    assert torch.equal(got, expected) and got.abs().max() > 0
    with pytest.raises(UnsupportedError, match=r"forward-mode|torch\.func|jit\.trace"):
        transform(attending(attention, key, value, "fused"), query)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@local
def test_autocast_has_its_dtype(attention, dtype):
    query, key, value = draw(3, 1, 6, 6, 2, 4)
    with torch.autocast("cpu", dtype):
        out = attention(query, key, value, backend="fused")
        wide = attention(query.double(), key.double(), value.double(), backend="fused")
    assert out.dtype == dtype and wide.dtype == torch.float64
    assert torch.equal(out, attention(query.to(dtype), key.to(dtype), value.to(dtype)))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@local
def test_nan_is_not_hidden(attention, dtype):
    """A key of NaNs makes every query that sees it NaN, and so does a bias."""
    query, key, value = draw(3, 1, 9, 9, 2, 4, dtype=dtype)
    key[0, 4, 4, 1] = torch.nan
    bias = torch.zeros(2, 5, 5, dtype=dtype)
    for table in (bias, torch.where(torch.arange(50).reshape(2, 5, 5) == 30, torch.nan, bias)):
        got, expected = (
            attention(query, key, value, bias=table, backend=backend).isnan() for backend in ("fused", "reference")
        )
        assert expected.any() and torch.equal(got, expected)


def nan_places(function, *tensors, **options):
    """Where the outputs and the gradients are NaN, by the kernel and by the reference."""
    found = []
    for backend in ("fused", "reference"):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        outputs = leaves(function(*inputs, **options, backend=backend))
        gradients = torch.autograd.grad([out.sum() for out in outputs], inputs)
        found.append([tensor.isnan() for tensor in (*outputs, *gradients)])
    return found


@needs_native
@pytest.mark.parametrize("which", [0, 1], ids=["query", "key"])
def test_regions_of_a_shifted_window_are_apart(which):
    tensors = draw(3, 1, 7, 7, 1, 4)
    tensors[which][0, 1, 1] = torch.nan  # the window's last token, after a shift by 2
    got, expected = nan_places(window_attention, *tensors, window_size=7, shift_size=2)
    assert any(0 < one.sum() < one.numel() for one in expected)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@needs_native
@pytest.mark.parametrize("token", [0, 3, 32, 39])
def test_hidden_tokens_of_additive_attention(token):
    query, key = draw(2, 1, 40, 2, 4)
    query, weights = query.abs(), [torch.ones(2, 8)] * 2
    key[0, token, 0, 1] = -torch.inf
    results = [additive_attention(query, key, *weights, backend=backend) for backend in ("fused", "reference")]
    assert 0 < results[1].isnan().sum() < results[1].numel()
    torch.testing.assert_close(*results, equal_nan=True)


@needs_native
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_cancels_is_seen_when_it_is_not_finite(value):
    query, key, values = draw(3, 1, 9, 2, 4)
    bad, mixes = torch.tensor([0.0, value]), torch.eye(2)
    weights = torch.ones(2, 8)
    calls = [
        partial(talking_heads_attention, query, key, values, mixes, mixes, logits_bias=bad),
        partial(additive_attention, query, key, weights, weights, query_bias=bad),
        partial(additive_attention, query, key, weights, weights, key_bias=bad),
        partial(efficient_additive_attention, query.flatten(2), key.flatten(2), bad.repeat(4), token_norm="ones"),
    ]
    for call in calls:
        got, expected = (leaves(call(backend=backend))[0].isnan() for backend in ("fused", "reference"))
        assert expected.any() and torch.equal(got, expected)


@needs_native
def test_vmap_over_nothing():
    query = draw(0, 1, 4, 1, 2)
    assert torch.vmap(lambda one: window_attention(one, one, one, 2, backend="fused"))(query).shape == query.shape


@needs_native
def test_separable_attention_needs_no_memory_for_large_patches():
    program = """
import resource, torch
from regard.attention import separable_attention
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
scores, tokens = torch.randn(1, 128, 128, 1), torch.randn(1, 128, 128, 64)
separable_attention(scores[:, :2, :2], tokens[:, :2, :2], tokens[:, :2, :2], backend="fused")
before = peak()
separable_attention(scores, tokens, tokens, patch_size=64, backend="fused")
print((peak() - before) / (tokens.numel() * 4))
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(output) < 6  # of the tokens' size: outputs, sums, sums of runs


@needs_native
def test_out_of_memory():
    program = """
import resource, torch
from regard.attention import neighborhood_attention
torch.set_num_threads(2)
neighborhood_attention(*torch.randn(3, 1, 8, 8, 1, 4).unbind(), 3, backend="fused")  # the threads are there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
query, key, value = torch.randn(3, 1, 31, 31, 31, 1, 8).unbind()
resource.setrlimit(resource.RLIMIT_AS, (used + 6_000_000, resource.RLIM_INFINITY))
try:
    neighborhood_attention(query, key, value, 31, backend="fused")
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    assert "needs more memory than there is" in done.stdout


@needs_native
def test_damaged_library(tmp_path, monkeypatch):
    """The next best one serves; without any, the first problem is the reason."""
    best, *others = INSTRUCTION_SETS
    monkeypatch.setattr(_native, "__path__", [str(tmp_path)])
    (tmp_path / f"libregard_{best}.so").write_bytes(b"no library")
    assert "cannot be loaded" in loader.load().problem
    for name in others[:1]:
        whole = next(file for folder in NATIVE_FOLDERS for file in Path(folder).glob(f"libregard_{name}.so"))
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
        assert loader.load()[1:] == (name, "")


@needs_native
@pytest.mark.parametrize("name", LOCAL)
def test_export_with_decomposition(name):
    class Layer(torch.nn.Module):
        def forward(self, query, key, value):
            return LOCAL[name](query, key, value)

    tensors = draw(3, 1, 6, 9, 2, 4)
    program = torch.export.export(Layer(), tensors)
    assert f"regard.{name}_attention" in str(program.graph)
    decomposed = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert "regard" not in str(decomposed.graph)
    exact = Layer()(*(tensor.double() for tensor in tensors))
    assert_within_budget(decomposed.module()(*tensors), plain=Layer()(*tensors), exact=exact)


@needs_native
@pytest.mark.parametrize(
    "layer",
    [NeighborhoodAttention2d(8, num_heads=2, kernel_size=3), WindowAttention(8, num_heads=2, window_size=3)],
    ids=LOCAL,
)
def test_inductor(layer):
    torch.compiler.reset()
    x = torch.randn(2, 7, 9, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).sin().sum(), x)
    torch.testing.assert_close(gradient, expected)


@needs_native
@local
def test_flops_are_counted(attention):
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 2, 3, 6, 3, 4))
    with FlopCounterMode(display=False) as counter:
        attention(query, key, value).sum().backward()
    products = 2 * (2 * 18 * 3) * 9 * 4
    assert counter.get_total_flops() == 2 * products + 5 * products


@pytest.mark.parametrize(
    "first",
    [
        "import regard",
        "import torch.utils.flop_counter",
        "import regard, importlib.util; importlib.util.find_spec(name)",
    ],
)
def test_formulas_are_there_whichever_is_imported_first(first):
    program = f"""
name = "torch.utils.flop_counter"
{first}
import regard, torch, torch.utils.flop_counter as counter
print(torch.ops.regard.window_attention in counter.flop_registry)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


@needs_native
@local
def test_offsets_beyond_32_bits(attention):
    """A batch stride of 2 ** 31 elements: only the few pages that are read and written exist."""
    far = 2**31
    storage = torch.empty(far + 4096, dtype=torch.float16)
    query = storage.as_strided((2, 3, 6, 1, 8), (far, 48, 8, 8, 1)).copy_(torch.randn(2, 3, 6, 1, 8))
    near = query.contiguous().requires_grad_()
    query.requires_grad_()
    out, expected = (attention(x, x, x, backend="fused") for x in (query, near))
    assert torch.equal(out, expected)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y, x in ((out, query), (expected, near))))


@needs_native
@local
def test_reasons(attention):
    query, key, value = draw(3, 1, 3, 6, 1, 300)
    with pytest.raises(UnsupportedError) as raised:
        attention(query, key, value, dropout_p=0.1, backend="fused")
    assert "more than 256 channels" in str(raised.value) and "no dropout" in str(raised.value)
    assert attention(query, key, value).shape == query.shape  # the reference serves


@needs_native
def test_windows_too_large():
    query, key, value = draw(3, 1, 33, 33, 1, 4)
    with pytest.raises(UnsupportedError, match="windows have more than 1024 tokens"):
        window_attention(query, key, value, 33, backend="fused")


def test_without_libraries(monkeypatch):
    monkeypatch.setattr(_native, "__path__", [])
    monkeypatch.setattr(loader, "NATIVE", loader.load())
    query, key, value = draw(3, 1, 5, 5, 1, 4)
    assert neighborhood_attention(query, key, value, 3).shape == query.shape
    assert neighborhood.unsupported_reasons(query, key, value, 3) == [
        "regard was installed without its native library: install it again with a C++ compiler"
    ]
