"""Head dims in several parts, and other shapes of tiles, in Triton's interpreter: `make test-triton`."""

import os

import pytest
import torch

from attention.oracle import assert_kernel_within_budget
from drawing import draw_single
from regard.attention import (
    additive_attention,
    efficient_additive_attention,
    neighborhood_attention,
    separable_attention,
    talking_heads_attention,
    window_attention,
)
from regard.attention.neighborhood import gpu_plan
from regard.gpu import launch

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="for Triton's interpreter")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def tensors(dtype, query, value_dim=None, **others):
    shapes = {"query": query, "key": query, "value": (*query[:-1], value_dim or query[-1]), **others}
    return {name: draw_single(*shape).to(dtype) for name, shape in shapes.items()}


@dtypes
@pytest.mark.parametrize(
    ("query", "value_dim", "kernel", "options"),
    [
        ((1, 5, 6, 1, 72), 40, (3, 5), {}),
        ((1, 3, 4, 2, 8), None, (3, 3), {}),
        ((1, 20, 1, 80), None, (5,), {"dilation": 2, "stride": 2, "is_causal": True}),
        ((1, 2, 3, 4, 1, 24), 8, (1, 3, 3), {"is_causal": (True, False, False)}),
        ((1, 4, 4, 1, 256), None, (3, 3), {}),
        ((1, 7, 9, 1, 16), None, (5, 9), {"stride": (3, 1)}),
    ],
    ids=str,
)
def test_neighborhood(query, value_dim, kernel, options, dtype):
    table = (query[-2], *(2 * size - 1 for size in kernel))
    given = tensors(dtype, query, value_dim, bias=table)
    assert_kernel_within_budget(neighborhood_attention, given, draws=8, kernel_size=kernel, **options)


@dtypes
@pytest.mark.parametrize(
    ("query", "value_dim", "window", "shift"),
    [
        ((1, 6, 8, 1, 72), 40, (3, 4), (1, 2)),
        ((1, 9, 9, 1, 24), None, (9, 9), (0, 0)),
        ((1, 2, 6, 6, 1, 8), 16, (2, 3, 3), (0, 1, 1)),
        ((1, 4, 4, 1, 256), None, (2, 4), (1, 0)),
    ],
    ids=str,
)
def test_window(query, value_dim, window, shift, dtype):
    given = tensors(dtype, query, value_dim, bias=(query[-2], *(2 * size - 1 for size in window)))
    assert_kernel_within_budget(window_attention, given, draws=8, window_size=window, shift_size=shift)


@dtypes
@pytest.mark.parametrize(("heads", "mixed", "value_heads", "dim"), [(2, 3, 1, 40), (5, 5, 5, 8)])
def test_talking_heads(heads, mixed, value_heads, dim, dtype):
    shapes = {"query": (1, 10, heads, dim), "key": (1, 10, heads, dim), "value": (1, 10, value_heads, dim + 8)}
    shapes |= {"logits_mix": (mixed, heads), "weights_mix": (value_heads, mixed), "weights_bias": (value_heads,)}
    given = {name: draw_single(*shape).to(dtype) for name, shape in shapes.items()}
    assert_kernel_within_budget(talking_heads_attention, given, draws=8)


@pytest.fixture
def use_tiles(monkeypatch):
    """Choose the tiles of neighborhood attention."""

    def use(*tiles):
        for choose in ("forward_tiles", "backward_tiles"):
            monkeypatch.setattr(gpu_plan, choose, lambda *_: gpu_plan.Tiles(*tiles, 4, 1))
        gpu_plan.plan.cache_clear()

    yield use
    gpu_plan.plan.cache_clear()


@pytest.mark.parametrize("tiles", [(16, 16), (16, 64), (64, 16), (128, 64)], ids=str)
@pytest.mark.parametrize(
    ("grid", "kernel", "options"), [((9, 11), (4, 7), {"stride": (2, 3)}), ((33,), (16,), {"is_causal": True})], ids=str
)
def test_tiles(use_tiles, tiles, grid, kernel, options):
    use_tiles(*tiles)
    given = tensors(torch.float16, (1, *grid, 1, 8), bias=(1, *(2 * size - 1 for size in kernel)))
    assert_kernel_within_budget(neighborhood_attention, given, draws=8, kernel_size=kernel, **options)


def test_a_tile_of_a_shorter_group_has_no_members(use_tiles):
    """It reads no bias: there is none for keys so far before it."""
    use_tiles(16, 16)
    given = tensors(torch.float32, (1, 25, 9, 1, 8), bias=(1, 17, 17))
    assert_kernel_within_budget(neighborhood_attention, given, draws=8, kernel_size=(9, 9), dilation=(2, 1))


@pytest.mark.parametrize("window", [(3, 3), (4, 4)], ids=str)
def test_window_whose_tokens_do_not_see_themselves(window):
    """Rows of a tile that no token has see nothing else."""
    given = tensors(torch.float16, (1, 2 * window[0], window[1], 1, 8), bias=(1, *(2 * side - 1 for side in window)))
    given["bias"][0, window[0] - 1, window[1] - 1] = -torch.inf
    for backend in ("reference", "fused"):
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        out = window_attention(**inputs, window_size=window, backend=backend)
        assert all(one.isfinite().all() for one in (out, *torch.autograd.grad(out.sum(), inputs.values())))


HEADS, TOKENS = (1, 300, 2, 16), (1, 24, 24, 32)
LOCAL = dict.fromkeys(("query", "key", "value"), (1, 12, 12, 1, 8))
DIVIDED = {
    "additive": (
        additive_attention,
        {"query": HEADS, "key": HEADS, "query_weight": (2, 32), "key_weight": (2, 32)},
        {},
    ),
    "efficient additive": (
        efficient_additive_attention,
        {"query": TOKENS, "key": TOKENS, "weight": (32,)},
        {"token_norm": "softmax"},
    ),
    "separable": (
        separable_attention,
        {"query": (1, 24, 24, 1), "key": TOKENS, "value": TOKENS},
        {"patch_size": 2},
    ),
    "window": (window_attention, {**LOCAL, "bias": (1, 7, 7)}, {"window_size": (4, 4), "shift_size": (1, 2)}),
    "neighborhood": (neighborhood_attention, {**LOCAL, "bias": (1, 5, 5)}, {"kernel_size": (3, 3)}),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_as_many_programs_as_a_gpu_runs(monkeypatch, name):
    """The interpreter counts as one multiprocessor, for which sums are not divided."""
    monkeypatch.setattr(launch, "multiprocessors", lambda tensor: 13)
    function, shapes, options = DIVIDED[name]
    given = {name: draw_single(*shape) for name, shape in shapes.items()}
    assert_kernel_within_budget(function, given, draws=8, **options)


def test_offsets_of_64_bits(monkeypatch):
    monkeypatch.setattr(launch, "is_large", lambda *_: True)
    given = tensors(torch.float16, (1, 5, 7, 2, 24), bias=(2, 5, 5))
    given["query"] = given["query"].transpose(1, 2).contiguous().transpose(1, 2)
    assert_kernel_within_budget(neighborhood_attention, given, draws=8, kernel_size=(3, 3))
