"""The functions of regard.compat.natten: NATTEN's values, regard's definition, old layouts and argument orders."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch

from budget import assert_within_budget, truth
from drawing import draw
from natten_golden import OPERATORS, assert_natten_values
from regard.attention import neighborhood_attention
from regard.compat.natten import functional
from regard.errors import ShapeError, UnsupportedError

CASES = {
    "1d": ((11,), {"kernel_size": 5, "dilation": 2}),
    "1d even": ((12,), {"kernel_size": 4, "dilation": 3}),
    "1d causal": ((10,), {"kernel_size": 4, "dilation": 2, "is_causal": True}),
    "2d": ((9, 8), {"kernel_size": (3, 7), "dilation": (2, 1)}),
    "2d even": ((6, 9), {"kernel_size": (6, 2), "dilation": (1, 4)}),
    "2d half causal": ((7, 7), {"kernel_size": 3, "dilation": 2, "is_causal": (False, True)}),
    "3d": ((3, 4, 7), {"kernel_size": (3, 2, 5), "is_causal": (True, False, False)}),
}


def pipeline(query, key, value, bias=None, **options):
    """Compute attention with the unfused functions of NATTEN up to 0.17, heads last in and out."""
    query, key, value = (tensor.movedim(-2, 1) for tensor in (query, key, value))
    rank = query.ndim - 3
    qk, av = (getattr(functional, f"na{rank}d_{name}") for name in ("qk", "av"))
    weights = qk(query * query.shape[-1] ** -0.5, key, rpb=bias, **options).softmax(-1)
    return av(weights, value, **options).movedim(1, -2)


def fused(query, key, value, bias=None, **options):
    return getattr(functional, f"na{query.ndim - 3}d")(query, key, value, rpb=bias, **options)


@pytest.mark.one_parameter
@pytest.mark.parametrize("attention", [pipeline, fused])
@pytest.mark.parametrize("record", OPERATORS, ids=[record["name"] for record in OPERATORS])
def test_natten_operators(record, attention):
    assert_natten_values(attention, record)


@pytest.mark.one_parameter
@pytest.mark.parametrize("attention", [pipeline, fused])
@pytest.mark.parametrize("case", CASES)
def test_regards_attention(case, attention):
    """Outputs and gradients equal those of `neighborhood_attention`, for odd and even, dilated and causal windows."""
    grid, options = CASES[case]
    query, key, value, grad = draw(4, 2, *grid, 3, 8)
    kernel = options["kernel_size"]
    kernel = kernel if isinstance(kernel, tuple) else (kernel,) * len(grid)
    bias = draw(3, *(2 * size - 1 for size in kernel))

    def results(function, grad, *tensors):
        inputs = [tensor.requires_grad_() for tensor in tensors]
        out = function(*inputs[:3], bias=inputs[3], **options)
        return out.detach(), *torch.autograd.grad(out, inputs, grad)

    tensors = [tensor.float() for tensor in (grad, query, key, value, bias)]
    expected = truth(partial(results, neighborhood_attention), *tensors)
    assert_within_budget(results(attention, *tensors), expected)


def test_logits_are_heads_first_and_row_major():
    query, key = draw(2, 2, 3, 6, 9, 4)
    rpb = draw(3, 5, 9)
    logits = functional.na2d_qk(query, key, (3, 5), rpb=rpb)
    assert logits.shape == (2, 3, 6, 9, 15)
    expected = (
        query[1, 2, 3, 4] @ key[1, 2, 2, 6] + rpb[2, 1, 6]
    )  # offsets -1 and +2: the window's first row, last place
    torch.testing.assert_close(logits[1, 2, 3, 4, 4], expected)
    expected = query[1, 0, 0, 0] @ key[1, 0, 2, 1] + rpb[0, 4, 5]  # in the corner, all keys lie after the query
    torch.testing.assert_close(logits[1, 0, 0, 0, 2 * 5 + 1], expected)
    nothing = functional.na2d_qk(query[:0], key[:0], 3)
    assert nothing.shape == (0, 3, 6, 9, 9) and functional.na2d_av(nothing, key[:0], 3).shape == key[:0].shape


def test_argument_orders():
    """(kernel_size, dilation) since 0.14.5 (natten2dav: 0.14.6), the dilation alone before, and keywords."""
    query, key, value = draw(3, 1, 2, 11, 9, 4)
    rpb = draw(2, 5, 5)
    logits = functional.na2d_qk(query, key, 3, 2, rpb=rpb)
    natten2dqkrpb, natten2dav = functional.natten2dqkrpb, functional.natten2dav
    for found in (
        natten2dqkrpb(query, key, rpb, 3, 2),
        natten2dqkrpb(query, key, rpb, 2),
        natten2dqkrpb(query, key, rpb, dilation=2),
        natten2dqkrpb(query, key, rpb, 3, dilation=2),
        natten2dqkrpb(query=query, key=key, rpb=rpb, dilation=2, kernel_size=3),
    ):
        assert torch.equal(found, logits)
    assert torch.equal(functional.natten2dqk(query, key, 3, 2), natten2dqkrpb(query, key, None, 3, 2))
    out = functional.na2d_av(logits, value, 3, 2)
    for found in (natten2dav(logits, value, 3, 2), natten2dav(logits, value, 2), natten2dav(logits, value, dilation=2)):
        assert torch.equal(found, out)

    query, key, value = (tensor[:, :, :, 0] for tensor in (query, key, value))
    rpb = draw(2, 9)
    logits = functional.na1d_qk(query, key, 5, None, rpb=rpb)
    assert torch.equal(functional.natten1dqkrpb(query, key, rpb, 5, 1), logits)
    assert torch.equal(functional.natten1dqkrpb(query, key, rpb, 1), logits)
    assert torch.equal(functional.natten1dav(logits, value, 1), functional.na1d_av(logits, value, 5))
    assert torch.equal(functional.natten1dqk(query, key, 5, 1), functional.na1d_qk(query, key, 5))


def test_sizes_with_depth_apart():
    """Separate sizes for depth, as in NATTEN 0.15 and in natten3d* of all versions."""
    query, key, value = draw(3, 1, 2, 3, 10, 11, 4)
    rpb = draw(2, 5, 9, 9)
    logits = functional.na3d_qk(query, key, (3, 5, 5), (1, 2, 2), rpb=rpb)
    assert torch.equal(functional.natten3dqkrpb(query, key, rpb, 3, 5, 1, 2), logits)
    assert torch.equal(
        functional.natten3dav(logits, value, 3, 5, 1, 2), functional.na3d_av(logits, value, (3, 5, 5), (1, 2, 2))
    )
    assert torch.equal(
        functional.natten3dqk(query, key, 3, 5, 1, 2), functional.na3d_qk(query, key, (3, 5, 5), (1, 2, 2))
    )


@pytest.mark.parametrize("name", ["na3d_qk", "na3d_av"])
def test_sizes_of_0_15(name):
    query, key, value = draw(3, 1, 2, 3, 10, 11, 4)
    tensors = {"na3d_qk": (query, key), "na3d_av": (functional.na3d_qk(query, key, (3, 5, 5), (1, 2, 2)), value)}[name]
    function = getattr(functional, name)
    expected = function(*tensors, (3, 5, 5), (1, 2, 2))
    assert torch.equal(function(*tensors, 3, 5, 1, 2), expected)
    assert torch.equal(function(*tensors, 3, 5, np.int64(1), 2, None), expected)
    assert torch.equal(function(*tensors, kernel_size=5, kernel_size_d=3, dilation=2, dilation_d=1), expected)
    with pytest.raises(UnsupportedError, match="has no additional"):
        function(*tensors, 3, 5, 1, 2, value)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_qk_with_bias(rank):
    """NATTEN 0.15 has other names for natten*dqkrpb."""
    query, key = draw(2, 1, 2, *(9, 8, 7)[:rank], 4)
    rpb = draw(2, *[5] * rank)
    sizes = [3, 3, 2, 2] if rank == 3 else [3, 2]
    function, older = (getattr(functional, f"{name}") for name in (f"na{rank}d_qk_with_bias", f"natten{rank}dqkrpb"))
    for bias in (rpb, None):
        assert torch.equal(function(query, key, bias, *sizes), older(query, key, bias, *sizes))
    with pytest.raises(UnsupportedError, match="additional_keys"):
        function(query, key, rpb, *sizes, key)


def test_signatures():
    """Signatures name the arguments, since callers inspect them."""
    for function in (functional.na1d, functional.na2d, functional.na3d):
        assert {"dilation", "stride", "is_causal", "scale", "rpb"} <= set(inspect.signature(function).parameters)
    assert functional.na2d.__name__ == "na2d" and "[B, H, W, nh, hd]" in functional.na2d.__doc__
    assert "is_causal" in inspect.signature(functional.na3d_qk).parameters


def test_causal_axes_hide_keys():
    query, key, value = draw(3, 1, 1, 6, 4)
    logits = functional.na1d_qk(query, key, 3, is_causal=True)
    hidden = torch.tensor([[False, True, True], [False, False, True], *[[False, False, False]] * 4])
    assert torch.equal(logits[0, 0] == -torch.inf, hidden)
    weights = torch.rand(1, 1, 6, 3, dtype=torch.float64)
    out = functional.na1d_av(weights, value, 3, is_causal=True)
    torch.testing.assert_close(out[0, 0, 0], weights[0, 0, 0, 0] * value[0, 0, 0])  # hidden keys have no weight


def test_gradients():
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 1, 2, 5, 3))
    rpb = draw(2, 5).requires_grad_()

    def attention(query, key, value, rpb):
        return functional.na1d_av(functional.na1d_qk(query, key, 3, rpb=rpb), value, 3)

    assert torch.autograd.gradcheck(attention, (query, key, value, rpb))


def test_views_of_a_projection():
    """Modules pass three views of one tensor, permuted to heads first."""
    qkv = draw(2, 6, 7, 3, 2, 4)
    views = qkv.permute(3, 0, 4, 1, 2, 5)
    copies = views.contiguous()
    logits = functional.natten2dqkrpb(views[0], views[1], None, 3, 1)
    assert torch.equal(logits, functional.natten2dqkrpb(copies[0], copies[1], None, 3, 1))
    out = functional.natten2dav(logits, views[2], 3, 1)
    assert torch.equal(out, functional.natten2dav(logits, copies[2], 3, 1))


def test_compiles_without_breaks():
    query, key, value = draw(3, 1, 2, 6, 6, 4, dtype=torch.float32)
    rpb = draw(2, 5, 5, dtype=torch.float32)

    def attention(query, key, value, rpb):
        weights = functional.natten2dqkrpb(query, key, rpb, 3, 2).softmax(-1)
        return functional.natten2dav(weights, value, 3, 2)

    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    assert torch.equal(compiled(query, key, value, rpb), attention(query, key, value, rpb))


def test_sizes_with_depth_compile():
    query, key = draw(2, 1, 2, 3, 6, 6, 4, dtype=torch.float32)
    compiled = torch.compile(functional.na3d_qk, fullgraph=True, backend="eager")
    assert torch.equal(compiled(query, key, 3, 5, 1, 1), functional.na3d_qk(query, key, (3, 5, 5)))


def test_mixed_precision():
    """As under autocast on a GPU: softmax in float32, values in bfloat16, a float32 bias parameter."""
    query, key, value = draw(3, 1, 2, 6, 6, 4, dtype=torch.bfloat16)
    rpb = torch.zeros(2, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        weights = functional.natten2dqkrpb(query, key, rpb, 3, 1).softmax(-1, dtype=torch.float32)
        out = functional.natten2dav(weights, value, 3, 1)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert rpb.grad.dtype == torch.float32
    heads_last = [tensor.movedim(1, -2) for tensor in (query, key, value)]
    assert functional.na2d(*heads_last, 3, rpb=rpb).dtype == torch.bfloat16


def test_weights_wider_than_values():
    """NATTEN casts weights to the values' dtype, with or without autocast."""
    query, value = draw(2, 1, 2, 6, 6, 4, dtype=torch.bfloat16)
    logits = functional.na2d_qk(query, query, 3).requires_grad_()
    weights = logits.softmax(-1, dtype=torch.float32)
    out = functional.na2d_av(weights, value, 3)
    assert out.dtype == torch.bfloat16 and torch.equal(out, functional.na2d_av(weights.bfloat16(), value, 3))
    out.sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    assert functional.na2d_av(weights.bfloat16(), value.float(), 3).dtype == torch.float32


def test_fused_arguments():
    query, key, value = draw(3, 1, 8, 9, 2, 4)
    value = value[..., :3]
    out = functional.na2d(query, key, value, 4, stride=(2, 3), dilation=(1, 2), is_causal=(True, False), scale=0.3)
    ours = neighborhood_attention(
        query, key, value, 4, stride=(2, 3), dilation=(1, 2), is_causal=(True, False), scale=0.3
    )
    assert torch.equal(out, ours)
    plain = functional.na2d(query, key, value, kernel_size=3)
    performance = {
        "backend": "cutlass-fna",
        "q_tile_shape": (8, 8),
        "kv_tile_shape": (8, 8),
        "torch_compile": True,
        "attention_kwargs": {
            "backend": "cutlass-fmha",
            "q_tile_size": 64,
            "kv_tile_size": 64,
            "backward_q_tile_size": 64,
            "backward_kv_tile_size": 64,
        },
        "xformers_kwargs": None,
    }
    assert torch.equal(functional.na2d(query, key, value, 3, dilation=None, is_causal=None, **performance), plain)
    for ones in (1, (1, 1), [1, 1]):  # the dilation of 0.17, the stride of 0.20
        assert torch.equal(functional.na2d(query, key, value, 3, ones), plain)


class TestBadInput:
    q = torch.zeros(1, 2, 6, 6, 4)  # heads first
    f = torch.zeros(1, 6, 6, 2, 4)  # heads last

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda q: functional.na2d_qk(q, q, 7),
                r"must fit the grid \(6, 6\), got kernel_size=7 .* make them smaller",
            ),
            (lambda q: functional.na1d_qk(q, q, 3), r"query must have 4 dimensions \[B, nh, 1 grid axes, hd\], got 5"),
            (lambda q: functional.na2d_qk(q, q[:, :1], 3), "key must equal query's shape"),
            (lambda q: functional.na2d_qk(q, q, 3, rpb=torch.zeros(2, 3, 3)), r"rpb is .* expected \[2, 5, 5\]"),
            (lambda q: functional.na2d_qk(q, q, (3, 3, 3)), r"one per grid axis \(2\)"),
            (lambda q: functional.na2d_av(q, q, 3), r"attn is .* expected \[1, 2, 6, 6, 9\], got \[1, 2, 6, 6, 4\]"),
            (lambda q: functional.natten2dqkrpb(q, q, None, 1), "nothing tells the kernel size"),
            (lambda q: functional.natten2dav(q[..., :3], q, 1), r"attn is"),
        ],
    )
    def test_unfused_sizes(self, call, message):
        with pytest.raises(ShapeError, match=message):
            call(self.q)

    def test_fused_sizes(self):
        with pytest.raises(ShapeError, match="must fit the grid"):
            functional.na2d(self.f, self.f, self.f, kernel_size=3, dilation=3)
        with pytest.raises(ShapeError, match=r"query must have 4 dimensions \[B, 1 grid axes, nh, hd\]"):
            functional.na1d(self.f, self.f, self.f, kernel_size=3)
        with pytest.raises(ShapeError, match="bias is"):
            functional.na2d(self.f, self.f, self.f, kernel_size=3, rpb=torch.zeros(2, 3, 3))
        with pytest.raises(ShapeError, match="key must equal query's shape"):  # fewer heads for keys
            functional.na2d(self.f, self.f[..., :1, :], self.f[..., :1, :], kernel_size=3)

    @pytest.mark.parametrize("name", ["additional_keys", "additional_values"])
    def test_additional_keys(self, name):
        with pytest.raises(UnsupportedError, match=f"has no {name}: "):
            functional.na2d(self.f, self.f, self.f, 3, **{name: self.f[:, :, 0]})
        call, arguments = (
            (functional.na2d_qk, (self.q, self.q))
            if name == "additional_keys"
            else (functional.na2d_av, (self.q, self.q))
        )
        with pytest.raises(UnsupportedError, match=f"has no {name}: "):
            call(*arguments, 3, 1, self.q[:, :, 0])

    def test_unsupported_arguments(self):
        with pytest.raises(UnsupportedError, match="return_lse"):
            functional.na2d(self.f, self.f, self.f, 3, return_lse=True)

    def test_arguments(self):
        with pytest.raises(TypeError, match=r"dilation in NATTEN up to 0.17 and the stride since 0.20"):
            functional.na2d(self.f, self.f, self.f, 3, 2)
        for unnamed in ((1, False), (True,), ((1, 2),), ((),)):
            with pytest.raises(TypeError, match="must be named"):
                functional.na2d(self.f, self.f, self.f, 3, *unnamed)
        with pytest.raises(TypeError, match="unknown arguments dilatoin"):
            functional.na2d(self.f, self.f, self.f, 3, dilatoin=2)
        with pytest.raises(TypeError, match="unknown arguments scale"):
            functional.na2d(self.f, self.f, self.f, 3, attention_kwargs={"scale": 2.0})
        with pytest.raises(TypeError, match="unknown arguments q_tile_shape"):  # nested, tiles have a size
            functional.na2d(self.f, self.f, self.f, 3, attention_kwargs={"q_tile_shape": (8, 8)})
        with pytest.raises(TypeError, match="unknown arguments q_tile_size"):
            functional.na2d(self.f, self.f, self.f, 3, q_tile_size=64)
        for sizes, names in [((), {}), ((3, 1, 1), {}), ((3, 1), {"dilation": 1}), ((), {"kernel_size": 3})]:
            with pytest.raises(TypeError, match="expected kernel_size and dilation, or the dilation alone"):
                functional.natten2dqkrpb(self.q, self.q, torch.zeros(2, 5, 5), *sizes, **names)
        with pytest.raises(TypeError, match="same dtype"):
            functional.na2d_qk(self.q, self.q.double(), 3)
        with pytest.raises(TypeError, match=r"query must be a torch\.Tensor"):
            functional.na2d([[0.0]], self.f, self.f, 3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda q: functional.natten2dqkrpb(q, q, "x", 1), r"rpb must be a torch\.Tensor, got str"),
            (lambda q: functional.natten2dav([1.0], q, 1), r"attn must be a torch\.Tensor, got list"),
            (lambda q: functional.natten1dav([1.0], q, 1), r"attn must be a torch\.Tensor, got list"),
            (lambda q: functional.na2d_qk(q, q, 3, rpb=[1]), r"rpb must be a torch\.Tensor, got list"),
            (lambda q: functional.na2d_qk(q, q, 3, rpb=torch.ones(2, 5, 5).int()), "rpb must be a floating-point"),
            (lambda q: functional.na2d_av(q.int(), q, 3), "attn must be a floating-point"),
            (lambda q: functional.na2d_av(q.to("meta"), q, 3), "same device, got .*attn.*meta"),
            (lambda q: functional.na2d_qk(q, q, 3, rpb=torch.ones(2, 5, 5, device="meta")), "same device"),
        ],
    )
    def test_tensors(self, call, message):
        with pytest.raises(TypeError, match=message):
            call(self.q)

    def test_weights_without_axes(self):
        with pytest.raises(ShapeError, match="attn is"):
            functional.natten2dav(torch.tensor(1.0), self.q, 1)
