"""The native core: every instruction set gives the same mathematics, and the operator is a good citizen of PyTorch."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_within_budget
from regard.attention import MECHANISMS, _native, decompositions, neighborhood, neighborhood_attention
from regard.attention._native import loader
from regard.errors import UnsupportedError

from .test_contract import run_with_gradients

NEIGHBORHOOD = next(mechanism for mechanism in MECHANISMS if mechanism.name == "neighborhood")
NATIVE = loader.NATIVE
needs_native = pytest.mark.skipif(NATIVE.library is None, reason=f"no kernels in this install: {NATIVE.problem}")
INSTRUCTION_SETS = loader.RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("portable",))


def draw(*shape, count=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator).to(dtype).unbind()


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("sample", NEIGHBORHOOD.samples, ids=lambda sample: sample.name)
def test_instruction_sets(sample, name, monkeypatch):
    file = next(file for folder in _native.__path__ for file in Path(folder).glob(f"*regard_{name}.*"))
    monkeypatch.setattr(loader, "NATIVE", loader.Native(ctypes.CDLL(str(file)), name, ""))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensors = sample.tensors(dtype)
        exact = run_with_gradients(NEIGHBORHOOD, sample, {key: tensor.double() for key, tensor in tensors.items()})
        plain = run_with_gradients(NEIGHBORHOOD, sample, tensors)
        got = run_with_gradients(NEIGHBORHOOD, sample, tensors, "fused")
        assert_within_budget(got, plain=plain, exact=exact)


GRIDS = [
    ((56, 57), 2, 32, (7, 7), {}),
    ((9, 130), 3, 5, (3, 31), {}),
    ((1, 300), 1, 8, (1, 65), {"stride": (1, 40)}),
    ((40, 33), 2, 17, (13, 5), {"dilation": (3, 6)}),
    ((100,), 3, 40, (49,), {"dilation": 2, "is_causal": True, "stride": 20}),
    ((7, 7), 16, 32, (7, 7), {}),
    ((5, 6, 20), 2, 16, (3, 3, 5), {"is_causal": (True, False, True)}),
    ((4, 2000), 1, 64, (3, 3), {}),
    ((6, 6), 2, 256, (3, 3), {}),
    ((24, 59), 5, 16, (13, 6), {"stride": (8, 1), "is_causal": (True, False)}),  # a rest of heads, in tiles of its own
]


@needs_native
@pytest.mark.parametrize(("grid", "heads", "head_dim", "kernel", "options"), GRIDS, ids=str)
def test_larger_grids(grid, heads, head_dim, kernel, options):
    """Several tiles, blocks of mixed heads and groups, gathered partners: what the small samples do not reach."""
    tensors = dict(zip(("query", "key", "value"), draw(1, *grid, heads, head_dim), strict=True))
    (tensors["bias"],) = draw(heads, *(2 * size - 1 for size in kernel), count=1)

    def run(tensors, backend):
        tensors = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        out = neighborhood_attention(**tensors, kernel_size=kernel, **options, backend=backend)
        return out.detach(), *torch.autograd.grad(out.sin().sum(), list(tensors.values()))

    exact = run({name: tensor.double() for name, tensor in tensors.items()}, "reference")
    assert_within_budget(run(tensors, "fused"), plain=run(tensors, "reference"), exact=exact)


@needs_native
def test_default_on_the_cpu():
    query, key, value = draw(1, 6, 6, 2, 4)
    with torch.profiler.profile() as profile:
        neighborhood_attention(query, key, value, 3)
    assert "regard::neighborhood_attention" in {event.key for event in profile.key_averages()}


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("sample", NEIGHBORHOOD.samples[:4], ids=lambda sample: sample.name)
def test_opcheck(sample, permuted):
    tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors().items()}
    if permuted:
        tensors = {
            n: t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for n, t in tensors.items()
        }
    axes = len(tensors["query"].shape) - 3
    kernel = sample.options["kernel_size"]
    kernel = [kernel] * axes if isinstance(kernel, int) else list(kernel)
    options = (kernel, [1] * axes, [1] * axes, [False] * axes, 0.5)
    arguments = (tensors["query"], tensors["key"], tensors["value"], tensors.get("bias"), *options)
    torch.library.opcheck(torch.ops.regard.neighborhood_attention.default, arguments)


@needs_native
def test_vmap():
    query, key, value = draw(5, 2, 6, 7, 2, 4)
    tables = torch.randn(5, 2, 5, 5)

    def attend(query, key, value, bias):
        return neighborhood_attention(query, key, value, 3, bias=bias)

    shared = torch.stack([attend(*one, tables[0]) for one in zip(query, key, value, strict=True)])
    assert torch.equal(torch.vmap(attend, in_dims=(0, 0, 0, None))(query, key, value, tables[0]), shared)
    own = torch.stack([attend(*one) for one in zip(query, key, value, tables, strict=True)])
    assert torch.equal(torch.vmap(attend)(query, key, value, tables), own)
    one_key = torch.stack([attend(q, key[0], v, tables[0]) for q, v in zip(query, value, strict=True)])
    assert torch.equal(torch.vmap(attend, in_dims=(0, None, 0, None))(query, key[0], value, tables[0]), one_key)


@needs_native
def test_export_with_decomposition():
    class Layer(torch.nn.Module):
        def forward(self, query, key, value):
            return neighborhood_attention(query, key, value, 3, dilation=2)

    tensors = draw(1, 8, 9, 2, 4)
    program = torch.export.export(Layer(), tensors)
    assert "regard.neighborhood_attention" in str(program.graph)
    decomposed = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert "regard" not in str(decomposed.graph)
    exact = Layer()(*(tensor.double() for tensor in tensors))
    assert_within_budget(decomposed.module()(*tensors), plain=Layer()(*tensors), exact=exact)


@needs_native
def test_inductor():
    torch.compiler.reset()
    layer = neighborhood.NeighborhoodAttention2d(8, num_heads=2, kernel_size=3)
    x = torch.randn(2, 7, 9, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).sin().sum(), x)
    torch.testing.assert_close(gradient, expected)


@needs_native
def test_flops_are_counted():
    query, key, value = (tensor.requires_grad_() for tensor in draw(2, 5, 6, 3, 4))
    with FlopCounterMode(display=False) as counter:
        neighborhood_attention(query, key, value, 3).sum().backward()
    products = 2 * (2 * 30 * 3) * 9 * 4
    assert counter.get_total_flops() == 2 * products + 5 * products


@needs_native
def test_offsets_beyond_32_bits():
    """A batch stride of 2 ** 31 elements: only the few pages that are read and written exist."""
    far = 2**31
    storage = torch.empty(far + 4096, dtype=torch.float16)
    query = storage.as_strided((2, 4, 5, 1, 8), (far, 40, 8, 8, 1)).copy_(torch.randn(2, 4, 5, 1, 8))
    out = neighborhood_attention(query, query, query, 3, backend="fused")
    assert torch.equal(out, neighborhood_attention(*[query.contiguous()] * 3, 3, backend="fused"))


@needs_native
def test_reasons():
    query, key, value = draw(1, 5, 5, 1, 300)
    with pytest.raises(UnsupportedError) as raised:
        neighborhood_attention(query, key, value, 3, dropout_p=0.1, backend="fused")
    assert "more than 256 channels" in str(raised.value) and "no dropout" in str(raised.value)
    assert neighborhood_attention(query, key, value, 3).shape == query.shape  # the reference serves


def test_without_libraries(monkeypatch):
    monkeypatch.setattr(_native, "__path__", [])
    monkeypatch.setattr(loader, "NATIVE", loader.load())
    query, key, value = draw(1, 5, 5, 1, 4)
    assert neighborhood_attention(query, key, value, 3).shape == query.shape
    assert neighborhood.unsupported_reasons(query, key, value, 3) == [
        "regard was installed without its native library: install it again with a C++ compiler"
    ]
