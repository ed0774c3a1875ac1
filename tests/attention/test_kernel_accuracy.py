"""The CPU kernels keep their budgets: on every instruction set, on larger grids, for random options and layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import assert_definition, assert_within_budget
from drawing import draw_single
from regard.attention import (
    MECHANISMS,
    efficient_additive_attention,
    neighborhood,
    neighborhood_attention,
    talking_heads_attention,
)
from regard.native import loader

from .kernels import INSTRUCTION_SETS, needs_native
from .neighborhood.grids import GRIDS
from .neighborhood.strategies import neighborhood_axes
from .oracle import assert_kernel_within_budget, outputs_and_gradients, run_with_gradients, truth_of

LARGER = [  # grids of more than 1,400 positions take seconds
    pytest.param(*call, marks=pytest.mark.exhaustive) if math.prod(call[0]) > 1400 else call for call in GRIDS
]
CALLS = [
    pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}")
    for mechanism in MECHANISMS
    if mechanism.name != "softmax"  # PyTorch's own kernels
    for sample in mechanism.samples
]


@pytest.mark.one_parameter
@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize(("mechanism", "sample"), CALLS)
def test_instruction_sets(mechanism, sample, name, monkeypatch):
    monkeypatch.setattr(loader, "NATIVE", loader.load(name))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        got = run_with_gradients(mechanism, sample, sample.tensors(dtype), "fused")
        assert_within_budget(got, truth_of(mechanism, sample, dtype))


@pytest.mark.one_parameter
@needs_native
@pytest.mark.parametrize(("grid", "heads", "head_dim", "kernel", "options"), LARGER, ids=str)
def test_larger_grids(grid, heads, head_dim, kernel, options):
    tensors = dict(zip(("query", "key", "value"), draw_single(3, 1, *grid, heads, head_dim), strict=True))
    tensors["bias"] = draw_single(heads, *(2 * size - 1 for size in kernel))
    assert_kernel_within_budget(neighborhood_attention, tensors, kernel_size=kernel, **options)


@needs_native
@settings(max_examples=50)
@given(data=st.data())
def test_any_options_and_strides(data):
    """Outputs and gradients in float64, for random grids of one to three axes, options and memory layouts."""
    axes = data.draw(st.integers(1, 3))
    longest = {1: 40, 2: 20, 3: 9}[axes]
    grid, kernel, dilation, stride, causal = data.draw(neighborhood_axes(axes, longest, kernel=9, stride=5))
    pairs = math.prod(grid) * math.prod(kernel)  # of queries and keys; many leave few heads and channels
    batch, heads = data.draw(st.integers(1, 2)), data.draw(st.integers(1, min(5, 1 + 10_000 // pairs)))
    max_dim = 1 + 100_000 // (pairs * heads)
    dims = data.draw(st.integers(1, min(40, max_dim))), data.draw(st.integers(1, min(20, max_dim)))
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
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    assert not neighborhood.MECHANISM.unsupported_reasons(**tensors, **options)
    function = outputs_and_gradients(neighborhood_attention, **options)
    exact = outputs_and_gradients(neighborhood_attention, **options, backend="reference")(**tensors)
    assert_definition(function, **tensors, exact=exact, draws=2)


@needs_native
@pytest.mark.parametrize("seed", range(4))
def test_long_sums_round_no_more_than_pytorchs(seed):
    """The kernel must not add up all 256 channels in one go: the mean error is at most twice the reference's."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 1, 14, 14, 2, 256, generator=generator).unbind()
    reference = outputs_and_gradients(neighborhood_attention, kernel_size=7, backend="reference")
    kernel = outputs_and_gradients(neighborhood_attention, kernel_size=7, backend="fused")
    exact = reference(query.double(), key.double(), value.double())
    for one, plain, truth in zip(kernel(query, key, value), reference(query, key, value), exact, strict=True):
        assert (one - truth).square().mean() <= 4 * (plain - truth).square().mean()


@needs_native
def test_talking_heads_in_blocks():
    """A batch with more queries than one block and more heads than one vector."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 150, 17, 8, generator=generator).unbind()
    mixes = torch.randn(2, 17, 17, generator=generator).unbind()
    tensors = dict(
        zip(("query", "key", "value", "logits_mix", "weights_mix"), (query, key, value, *mixes), strict=True)
    )
    tensors["weights_bias"] = torch.randn(17, generator=generator)
    assert_kernel_within_budget(talking_heads_attention, tensors)


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pooled_family_does_not_depend_on_the_number_of_threads(threads):
    query, key = draw_single(2, 3, 150, 40)
    expected = efficient_additive_attention(query, key, query[0, 0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = efficient_additive_attention(query, key, query[0, 0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
