"""Properties of softmax attention, parity with timm's modules, and errors of its arguments."""

import pytest
import timm.layers
import torch
from timm.models.cait import ClassAttn
from torch import nn

from budget import assert_definition, assert_within_budget, truth
from drawing import draw, randomize
from memory import LargestTensor
from regard.attention import Attention, ClassAttention, softmax_attention, softmax_weights
from regard.errors import ShapeError, UnsupportedError


def assert_same_module(ours, upstream, x, view=lambda x: x):
    """Load the upstream module's weights and compare the outputs; `view` lays the tokens out as a grid."""
    ours.load_state_dict(upstream.state_dict())
    exact = upstream.double()(x.double())
    assert_definition(ours, view(x), exact=view(exact))


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_timm_attention(qk_norm, backend):
    upstream = randomize(timm.layers.Attention(32, 4, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm))
    ours = Attention(32, 4, qk_norm=qk_norm, backend=backend)
    assert_same_module(ours, upstream, torch.randn(2, 12, 32))


def test_timm_attention_on_a_grid():
    upstream = randomize(timm.layers.Attention(32, 4, qkv_bias=False))
    assert_same_module(
        Attention(32, 4, qkv_bias=False), upstream, torch.randn(2, 12, 32), lambda x: x.unflatten(1, (3, 4))
    )


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_timm_class_attention(backend):
    upstream = randomize(ClassAttn(32, 4, qkv_bias=True))
    assert_same_module(ClassAttention(32, 4, backend=backend), upstream, torch.randn(2, 10, 32))


def test_class_attention_is_a_row_of_full_attention():
    torch.manual_seed(0)
    one, full = ClassAttention(32, 4).double(), Attention(32, 4).double()
    full.proj = one.proj
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat([one.q.weight, one.k.weight, one.v.weight]))
        full.qkv.bias.copy_(torch.cat([one.q.bias, one.k.bias, one.v.bias]))
    x = torch.randn(2, 10, 32, dtype=torch.float64)
    assert_definition(one, x, exact=full(x)[:, :1])


@pytest.mark.parametrize(("grid", "keys"), [((6,), (6,)), ((2, 3), (4,)), ((2, 2, 2), (3, 5))], ids=str)
def test_weights_are_what_is_applied(grid, keys):
    query = draw(2, *grid, 3, 8)
    key, value = draw(2, 2, *keys, 3, 8, seed=1)
    weights = softmax_weights(query, key)
    assert (weights.sum(-1) - 1).abs().max() <= weights.shape[-1] * torch.finfo(torch.float64).eps
    applied = torch.einsum("bhnm,bmhc->bnhc", weights, value.flatten(1, -3)).unflatten(1, grid)
    assert_definition(softmax_attention, query, key, value, exact=applied)


def test_scale_0_is_the_mean():
    query, key, value = draw(3, 2, 3, 4, 2, 8)
    mean = value.mean((1, 2), keepdim=True).expand_as(value)
    for backend in ("fused", "reference"):
        assert_definition(softmax_attention, query, key, value, scale=0.0, backend=backend, exact=mean)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_infinite_bias_hides_keys(backend):
    query, key, value = draw(3, 2, 6, 2, 8)
    hidden = torch.zeros(1, 6, dtype=torch.float64)
    hidden[:, 4:] = -torch.inf
    exact = softmax_attention(query, key[:, :4], value[:, :4])
    assert_definition(softmax_attention, query, key, value, bias=hidden, backend=backend, exact=exact)


@pytest.mark.parametrize("grid", [(7,), (3, 4)], ids=str)
def test_shaw_distance_0_is_one_shared_vector(grid):
    query, key, value = draw(3, 2, *grid, 2, 8)
    tables = draw(2, len(grid), 1, 8, seed=1)
    shared_key, shared_value = (table.sum((0, 1)) for table in tables)
    options = dict(zip(("relative_key", "relative_value"), tables, strict=True))
    exact = softmax_attention(query, key + shared_key, value + shared_value)
    assert_definition(softmax_attention, query, key, value, **options, exact=exact)


def test_shaw_depends_on_distance_alone():
    """With equal queries and equal keys, logits depend only on the distance, up to a constant per row."""
    query, key = (tensor[:, :1].expand(-1, 9, -1, -1) for tensor in draw(2, 1, 1, 1, 8))
    table = draw(1, 5, 8, seed=1)
    logits = softmax_weights(query, key, relative_key=table)[0, 0].log()
    logits = logits - logits.diagonal()[:, None]
    for i in range(8):
        for j in range(8):
            assert abs(logits[i, j] - logits[i + 1, j + 1]) <= 64 * torch.finfo(torch.float64).eps * logits.abs().max()
    assert (logits[4, 2] - logits[4, 0]).abs() <= 64 * torch.finfo(torch.float64).eps * logits.abs().max()  # clipped
    assert (logits[4, 3] - logits[4, 5]).abs() > 1e3 * torch.finfo(torch.float64).eps  # left is not right


def test_shaw_holds_no_pairwise_vectors():
    """The largest tensor, forward and backward, has the B * nh * N * N elements of the weights, not N * N * hd."""
    query, key, value = (tensor.requires_grad_() for tensor in draw(3, 1, 8, 8, 1, 16))
    tables = [tensor.requires_grad_() for tensor in draw(2, 2, 5, 16, seed=1)]
    with LargestTensor() as largest:
        softmax_attention(query, key, value, relative_key=tables[0], relative_value=tables[1]).sum().backward()
    assert largest.elements == 64 * 64


def test_fused_reads_views_of_the_projection():
    qkv = torch.randn(2, 5, 7, 3, 2, 8)
    query, key, value = qkv.unbind(-3)
    fused = softmax_attention(query, key, value, backend="fused")
    assert_within_budget(fused, truth(softmax_attention, query, key, value))


MODULES = [
    pytest.param(lambda: Attention(16, 2, qk_norm=True), (4, 5), id="attention"),
    pytest.param(lambda: Attention(16, 2, relative_distance=2, axes=2), (4, 5), id="shaw"),
    pytest.param(lambda: ClassAttention(16, 2), (9,), id="class"),
]


@pytest.mark.parametrize(("build", "grid"), MODULES)
def test_gradient_reaches_all_parameters(build, grid):
    module = randomize(build())
    module(torch.randn(2, *grid, 16)).square().sum().backward()
    canceled = {"k.bias"}  # the same for all keys, so the softmax cancels it
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and (name in canceled or parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize(("build", "grid"), MODULES)
def test_modules_take_an_empty_batch(build, grid):
    assert build()(torch.randn(0, *grid, 16)).shape[0] == 0


def test_shaw_module_is_the_function():
    module = randomize(Attention(16, 2, relative_distance=2, axes=2)).double()
    x = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    query, key, value = module.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
    tables = {"relative_key": module.relative_key, "relative_value": module.relative_value}
    assert torch.equal(module(x), module.proj(softmax_attention(query, key, value, **tables).flatten(-2)))


@pytest.mark.parametrize(("build", "grid"), MODULES)
def test_modules_in_mixed_precision(build, grid):
    module = build()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.randn(1, *grid, 16))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("build", [Attention, ClassAttention])
def test_dropout_only_in_training(build):
    torch.manual_seed(0)
    module, x = build(16, 2, attn_drop=0.5), torch.randn(1, 9, 16)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


class TestBadInput:
    def call(self, **changed):
        query, key, value = draw(3, 2, 3, 4, 2, 8)
        return softmax_attention(**{"query": query, "key": key, "value": value, **changed})

    @pytest.mark.parametrize("shape", [(12,), (2, 11, 12), (12, 11), (3, 1, 12, 12), (1, 2, 2, 12, 12)], ids=str)
    def test_bias(self, shape):
        with pytest.raises(ShapeError, match=r"bias must broadcast to \[B, nh, N, M\] = \[2, 2, 12, 12\], got"):
            self.call(bias=torch.zeros(shape, dtype=torch.float64))

    @pytest.mark.parametrize("name", ["relative_key", "relative_value"])
    def test_relative_tables(self, name):
        for shape in ((1, 3, 8), (2, 3, 7), (3, 8)):
            with pytest.raises(ShapeError, match=f"{name} is .* expected \\[2, any, 8\\]"):
                self.call(**{name: torch.zeros(shape, dtype=torch.float64)})
        with pytest.raises(ShapeError, match=f"{name} must have an odd number"):
            self.call(**{name: torch.zeros(2, 4, 8, dtype=torch.float64)})
        with pytest.raises(ShapeError, match=f"{name} needs query and key on the same grid"):
            self.call(query=draw(3, 2, 12, 2, 8)[0], **{name: torch.zeros(1, 3, 8, dtype=torch.float64)})

    @pytest.mark.parametrize("shape", [(1, 3, 4, 2, 8), (2, 3, 4, 1, 8), (2, 3, 4, 2, 7)], ids=str)
    def test_key(self, shape):
        with pytest.raises(ShapeError, match="key must equal query's shape but for its grid"):
            self.call(key=torch.zeros(shape, dtype=torch.float64))

    def test_value_on_another_grid(self):
        with pytest.raises(ShapeError, match="value must equal key's shape"):
            self.call(value=draw(3, 2, 12, 2, 8)[0])

    def test_dropout(self):
        with pytest.raises(ShapeError, match="dropout_p must be in"):
            self.call(dropout_p=1.0)

    def test_fused_lists_both_tables(self):
        table = torch.zeros(2, 3, 8, dtype=torch.float64)
        with pytest.raises(UnsupportedError, match=r"(?s)relative_key is given.*relative_value is given"):
            self.call(relative_key=table, relative_value=table, backend="fused")

    def test_modules(self):
        with pytest.raises(ShapeError, match="dim must be a multiple"):
            Attention(10, 4)
        with pytest.raises(ShapeError, match="relative_distance must be at least 0"):
            Attention(16, 2, relative_distance=-1)
        with pytest.raises(ShapeError, match="x must have 3 or 4 or 5 dimensions"):
            Attention(16, 2)(torch.randn(2, 16))
        with pytest.raises(ShapeError, match="x must have 3 dimensions"):
            ClassAttention(16, 2)(torch.randn(2, 3, 3, 16))


@pytest.mark.parametrize("head_dim_v", [16, 24])
def test_flops_are_counted(head_dim_v):
    """PyTorch's counter has no formula for its own attention on CPUs: two products forward, five more backward."""
    from torch.utils.flop_counter import FlopCounterMode

    query, key = torch.randn(2, 2, 9, 3, 16, requires_grad=True).unbind()
    value = torch.randn(2, 9, 3, head_dim_v, requires_grad=True)
    pairs = 2 * 3 * 9 * 9
    with FlopCounterMode(display=False) as forward:
        out = softmax_attention(query, key, value)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert forward.get_total_flops() == 2 * pairs * (16 + head_dim_v)
    if head_dim_v == 16:  # other values take a path of PyTorch's that keeps the weights
        assert backward.get_total_flops() == 2 * pairs * (3 * 16 + 2 * head_dim_v)
