"""Head dims in several parts, and other shapes of tiles, in Triton's interpreter: `make test-triton`."""

import os

import pytest
import torch

from attention.oracle import assert_kernel_within_budget
from drawing import draw_single
from regard.attention import neighborhood_attention, talking_heads_attention, window_attention

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
