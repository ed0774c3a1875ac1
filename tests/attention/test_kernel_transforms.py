"""The kernels under vmap, torch.func, forward-mode differentiation, tracing and autocast."""

import pytest
import torch

from drawing import draw_single
from regard.attention import softmax_attention, window_attention
from regard.errors import UnsupportedError

from .kernels import local, needs_native


@needs_native
@local
def test_vmap(attention):
    query, key, value = draw_single(3, 5, 2, 6, 9, 2, 4)
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
    """Several rows of a Jacobian at once; their bias gradients do not mix."""
    query, key, value = (tensor.requires_grad_() for tensor in draw_single(3, 1, 3, 6, 2, 4))
    bias = torch.randn(2, 5, 5, requires_grad=True)
    inputs = [query, key, value, bias]
    out = attention(query, key, value, bias=bias)
    directions = torch.randn(3, *out.shape)
    together = torch.func.vmap(lambda one: torch.autograd.grad(out, inputs, one, retain_graph=True))(directions)
    for index, direction in enumerate(directions):
        alone = torch.autograd.grad(out, inputs, direction, retain_graph=True)
        assert all(torch.equal(rows[index], one) for rows, one in zip(together, alone, strict=True))


@needs_native
def test_vmap_over_an_empty_axis():
    query = draw_single(0, 1, 4, 1, 2)
    assert torch.vmap(lambda one: window_attention(one, one, one, 2, backend="fused"))(query).shape == query.shape


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
    query, key, value = draw_single(3, 1, 6, 6, 2, 4)
    got, expected = (transform(attending(attention, key, value, backend), query) for backend in (None, "reference"))
    assert torch.equal(got, expected) and got.abs().max() > 0
    with pytest.raises(UnsupportedError, match=r"forward-mode|torch\.func|jit\.trace"):
        transform(attending(attention, key, value, "fused"), query)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("attend", [lambda x: softmax_attention(x, x, x), lambda x: window_attention(x, x, x, 3)])
def test_traces_have_the_precision_of_their_tensors(attend):
    """Three channels: the square root of four is exact in any precision."""
    x = torch.randn(1, 6, 6, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.jit.trace(attend, (x,), check_trace=False)(x), attend(x), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("transform", ["jvp", "hvp"])
def test_softmax_attention_in_forward_mode_takes_the_reference(transform):
    x = draw_single(1, 6, 6, 2, 4)
    found = []
    for backend in (None, "reference"):
        attend = attending(softmax_attention, x, x, backend)
        if transform == "hvp":
            attend = torch.func.grad(lambda x, attend=attend: attend(x).sin().sum())
        found.append(torch.func.jvp(attend, (x,), (x.cos(),))[1])
    assert torch.equal(*found) and found[0].abs().max() > 0
    with pytest.raises(UnsupportedError, match="forward-mode"):
        torch.func.jvp(attending(softmax_attention, x, x, "fused"), (x,), (x,))


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@local
def test_autocast_has_its_dtype(attention, dtype):
    query, key, value = draw_single(3, 1, 6, 6, 2, 4)
    with torch.autocast("cpu", dtype):
        out = attention(query, key, value, backend="fused")
        wide = attention(query.double(), key.double(), value.double(), backend="fused")
    assert out.dtype == dtype and wide.dtype == torch.float64
    assert torch.equal(out, attention(query.to(dtype), key.to(dtype), value.to(dtype)))
