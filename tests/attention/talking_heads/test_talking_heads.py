"""Properties of talking-heads attention, parity with timm's module, and errors of its arguments."""

import copy

import pytest
import torch
from timm.models.cait import TalkingHeadAttn

from budget import assert_definition
from drawing import randomize
from regard.attention import Attention, TalkingHeadsAttention, softmax_attention, talking_heads_attention
from regard.attention import talking_heads_weights as weights_of
from regard.errors import ShapeError, UnsupportedError


def inputs(heads=(3, 3, 3), grid=(3, 4), keys=(3, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "query": (2, *grid, heads[0], 8),
        "key": (2, *keys, heads[0], 8),
        "value": (2, *keys, heads[2], 8),
        "logits_mix": (heads[1], heads[0]),
        "weights_mix": (heads[2], heads[1]),
        "logits_bias": (heads[1],),
        "weights_bias": (heads[2],),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_timm(qkv_bias):
    upstream = randomize(TalkingHeadAttn(32, 4, qkv_bias=qkv_bias))
    ours, x = TalkingHeadsAttention(32, 4, qkv_bias=qkv_bias), torch.randn(2, 12, 32)
    ours.load_state_dict(upstream.state_dict())
    assert_definition(ours, x, exact=upstream.double()(x.double()))
    ours.double()
    assert torch.equal(ours(x.double().unflatten(1, (3, 4))).flatten(1, 2), ours(x.double()))  # a grid is its tokens


def test_identity_mixes_are_plain_attention():
    tensors = inputs()
    for name in ("logits_mix", "weights_mix"):
        tensors[name] = torch.eye(3, dtype=torch.float64)
    for name in ("logits_bias", "weights_bias"):
        tensors[name] = torch.zeros(3, dtype=torch.float64)
    plain = softmax_attention(tensors["query"], tensors["key"], tensors["value"])
    assert_definition(talking_heads_attention, **tensors, exact=plain)


def test_identity_module_is_the_plain_module():
    talking, plain = randomize(TalkingHeadsAttention(32, 4, mix_bias=False)), Attention(32, 4)
    with torch.no_grad():
        talking.proj_l.weight.copy_(torch.eye(4))
        talking.proj_w.weight.copy_(torch.eye(4))
    plain.qkv, plain.proj = copy.deepcopy(talking.qkv), copy.deepcopy(talking.proj)
    x = torch.randn(2, 7, 32)
    assert_definition(talking, x, exact=plain.double()(x.double()))


def test_logits_bias_cancels():
    tensors = inputs()
    without = {name: tensor for name, tensor in tensors.items() if name != "logits_bias"}
    shifted = {**tensors, "logits_bias": tensors["logits_bias"] + 3}
    exact = talking_heads_attention(**without)
    assert_definition(talking_heads_attention, **tensors, exact=exact)
    assert_definition(talking_heads_attention, **shifted, exact=exact)


def test_logits_bias_has_no_gradient():
    """The gradients of each row cancel, up to the rounding of their sum."""
    tensors = inputs(heads=(2, 4, 3))
    bias = tensors["logits_bias"].requires_grad_()
    talking_heads_attention(**tensors).sum().backward()
    weights_gradient = tensors["weights_mix"].abs().sum(0) * tensors["value"].abs().sum(-1).max()  # [h], at most
    queries, keys = 2 * 12, 12
    allowed = torch.finfo(torch.float64).eps * queries * keys * 2 * weights_gradient
    assert (bias.grad.abs() <= allowed).all()


def test_weights_bias_adds_the_sum_of_all_values():
    tensors = inputs(heads=(2, 4, 3), grid=(5,), keys=(2, 3))
    without = {name: tensor for name, tensor in tensors.items() if name != "weights_bias"}
    added = tensors["weights_bias"][:, None] * tensors["value"].sum((1, 2))  # [B, h_v, hd]
    exact = talking_heads_attention(**without) + added[:, None]
    assert_definition(talking_heads_attention, **tensors, exact=exact)


def test_permuting_the_softmaxes_changes_nothing():
    tensors = inputs(heads=(2, 4, 3))
    order = torch.tensor([2, 0, 3, 1])
    permuted = {
        **tensors,
        "logits_mix": tensors["logits_mix"][order],
        "logits_bias": tensors["logits_bias"][order],
        "weights_mix": tensors["weights_mix"][:, order],
    }
    exact = talking_heads_attention(**tensors)
    assert_definition(talking_heads_attention, **permuted, exact=exact)


def test_scale_0_is_the_mean_times_the_mixes_rows():
    tensors = inputs(heads=(2, 4, 3))
    del tensors["weights_bias"]
    mean = tensors["value"].mean((1, 2), keepdim=True) * tensors["weights_mix"].sum(1)[:, None]
    exact = mean.expand_as(tensors["value"])
    assert_definition(talking_heads_attention, **tensors, scale=0.0, exact=exact)


def test_weights_are_what_is_applied():
    tensors = inputs(heads=(2, 4, 3), grid=(5,), keys=(2, 3))
    weights = weights_of(**{name: tensor for name, tensor in tensors.items() if name != "value"})
    assert weights.shape == (2, 3, 5, 6)
    applied = torch.einsum("bhnm,bmhc->bnhc", weights, tensors["value"].flatten(1, 2))
    assert_definition(talking_heads_attention, **tensors, exact=applied)


def test_rows_sum_to_the_mixes_rows():
    tensors = {
        name: tensor for name, tensor in inputs(heads=(2, 4, 3)).items() if name not in ("value", "weights_bias")
    }
    rows, mix = weights_of(**tensors).sum(-1), tensors["weights_mix"]
    allowed = 12 * torch.finfo(torch.float64).eps * mix.abs().sum(1)[:, None]  # a sum of 12 keys
    assert ((rows - mix.sum(1)[:, None]).abs() <= allowed).all()


def test_dropout_comes_after_the_second_mix():
    """Every weight is dropped or doubled, so no mixed weight keeps its value."""
    torch.manual_seed(0)
    tensors = inputs(grid=(1,), keys=(1,))
    tensors["value"] = torch.ones_like(tensors["value"])
    whole = talking_heads_attention(**tensors)
    dropped = talking_heads_attention(**tensors, dropout_p=0.5)
    assert ((dropped == 0) | (dropped == 2 * whole)).all() and (dropped == 0).any() and (dropped != 0).any()


@pytest.mark.parametrize("counts", [{}, {"num_heads_qk": 2, "num_heads_v": 6}, {"mix_bias": False}], ids=str)
def test_gradient_reaches_all_parameters(counts):
    module = randomize(TalkingHeadsAttention(32, 4, **counts))
    x = torch.randn(2, 3, 4, 32)
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and (name == "proj_l.bias" or parameter.grad.abs().max() > 0), name


def test_unequal_heads_of_the_module():
    module = TalkingHeadsAttention(32, 4, num_heads_qk=2, num_heads_v=6, mix_bias=False)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {
        "qkv.weight": (80, 32),
        "qkv.bias": (80,),
        "proj_l.weight": (4, 2),
        "proj_w.weight": (6, 4),
        "proj.weight": (32, 48),
        "proj.bias": (32,),
    }
    assert module(torch.randn(0, 5, 32)).shape == (0, 5, 32)


def test_module_in_mixed_precision():
    module = TalkingHeadsAttention(16, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.randn(1, 5, 16))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert module.proj_w.weight.grad.dtype == torch.float32


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "shape", "rule"),
        [
            ("logits_mix", (4, 3), r"is \[softmax heads, query's heads\]: expected \[any, 2\], got \[4, 3\]"),
            ("weights_mix", (3, 3), r"is \[value's heads, softmax heads\]: expected \[any, 4\], got \[3, 3\]"),
            ("value", (2, 3, 4, 2, 8), "must have key's batch and grid, and weights_mix's heads"),
            ("logits_bias", (2,), r"is \[softmax heads\]: expected \[4\]"),
            ("weights_bias", (4,), r"is \[value's heads\]: expected \[3\]"),
            ("key", (2, 3, 4, 3, 8), "must equal query's shape but for its grid"),
        ],
    )
    def test_shapes(self, name, shape, rule):
        tensors = inputs(heads=(2, 4, 3))
        with pytest.raises(ShapeError, match=f"{name} {rule}"):
            talking_heads_attention(**{**tensors, name: torch.zeros(shape, dtype=torch.float64)})

    def test_transposed_mix(self):
        tensors = inputs(heads=(2, 4, 3))
        with pytest.raises(ShapeError, match="logits_mix"):
            talking_heads_attention(**{**tensors, "logits_mix": tensors["logits_mix"].T})

    def test_no_kernel_with_dropout(self):
        with pytest.raises(UnsupportedError, match="no dropout of attention weights"):
            talking_heads_attention(**inputs(), dropout_p=0.1, backend="fused")

    def test_module(self):
        with pytest.raises(ShapeError, match="dim must be a multiple"):
            TalkingHeadsAttention(10, 4)
        with pytest.raises(ShapeError, match="num_heads_v must be at least 1"):
            TalkingHeadsAttention(16, 4, num_heads_v=0)
