"""What `fuse` leaves alone or rolls back, with the reason."""

import copy
import threading
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from budget import assert_within_budget, truth
from regard.attention import neighborhood_attention
from regard.errors import UnsupportedError
from regard.models import create_model
from regard.surgery import adapter, for_timm, fuse, rules
from regard.surgery.inspection import walk
from tests.surgery.models import DRAWS, HF, Pair, X, animate, build, image, logits, truth_of


def only_reason(pair, example=X, **options):
    """Return why the first module is left alone; the second is replaced, and the outputs agree."""
    expected = truth_of(pair.eval(), X)
    fused = fuse(pair, example=example, **options)
    report = fused.fuse_report
    assert [one.path for one in report.replaced] == ["second"]
    (left,) = report.left
    assert left.path == "first"
    assert type(fused.first) is type(pair.first)
    assert_within_budget(fused(X), expected)
    assert left.reason in str(report)
    return left.reason


@pytest.mark.parametrize("where", ["first", "first.qkv", "first.attn_drop"])
@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks(where, hook):
    pair = Pair()
    getattr(pair.get_submodule(where), hook)(lambda *_: None)
    assert "has hooks" in only_reason(pair)


def test_hooks_around_the_attention_stay():
    pair = Pair()
    calls = []
    pair.register_forward_hook(lambda *_: calls.append(1))
    fused = fuse(pair, check=False)
    assert len(fused.fuse_report.replaced) == 2
    fused(X)
    assert calls == [1]


def test_parametrizations():
    pair = Pair()
    register_parametrization(pair.first.qkv, "weight", nn.Tanh())
    assert "parametrization" in only_reason(pair)


def test_quantized():
    pair = Pair()
    pair.first.qkv = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})(16, 48)
    assert only_reason(pair) == "its qkv is quantized"


def test_parts_of_other_packages():
    pair = Pair()
    pair.first.qkv = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})(16, 48)
    assert only_reason(pair) == "its qkv is a peft.tuners.lora.layer.Linear"


def test_tied():
    pair = Pair()
    pair.third = nn.Linear(16, 48)
    pair.first.qkv.weight = pair.third.weight
    assert only_reason(pair) == "its weights are tied: first.qkv.weight is third.weight"


def test_a_module_used_twice():
    pair = Pair()
    pair.second = pair.first
    report = fuse(pair, example=X).fuse_report
    assert not report.replaced
    assert "tied" in report.left[0].reason


def test_compiled():
    pair = Pair()
    pair.first.compile(backend="eager")
    assert "compiled" in only_reason(pair)


def test_compiled_as_a_whole():
    compiled = torch.compile(Pair(), backend="eager")
    for inference in (False, True):
        fused = fuse(compiled, inference=inference)
        assert fused is compiled
        assert not fused.fuse_report.replaced
        assert all("compiled" in one.reason for one in fused.fuse_report.left)


def test_scripted():
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        scripted = torch.jit.trace(Pair().eval(), X)
    for inference in (False, True):
        assert fuse(scripted, inference=inference) is scripted
    assert "TorchScript" in next(blocked for _, _, blocked in walk(scripted))


def test_subclasses_with_another_forward():
    class Doubled(Attention):
        def forward(self, x):
            return 2 * super().forward(x)

    assert "subclass of Attention that changes forward" in only_reason(Pair(Doubled(16, num_heads=2)))


def test_subclasses_with_the_same_forward():
    class Small(Attention):
        def __init__(self):
            super().__init__(16, num_heads=2)

    assert len(fuse(Pair(Small()), example=X).fuse_report.replaced) == 2


def test_a_forward_replaced_on_the_object():
    pair = Pair()
    forward = pair.first.forward
    pair.first.forward = lambda x: 2 * forward(x)
    fused = fuse(pair, inplace=True, check=False)
    assert fused.fuse_report.left[0].reason == "it has forward replaced on the object"


class Doubled(WindowAttention):
    def forward(self, x, mask=None):
        return 2 * super().forward(x, mask)


class Other(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, mask=None):
        return self.attn(x, mask)


def subclass(block):
    block.attn.__class__ = Doubled


def wrap(block):
    block.attn = Other(block.attn)


def patch_attn(block):
    attn = block.attn.forward
    block.attn.forward = lambda x, mask=None: 2 * attn(x, mask)


def patch_method(block):
    attn = block._attn
    block._attn = lambda x: 2 * attn(x)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (subclass, "its attn is a subclass of WindowAttention that changes forward"),
        (wrap, f"its attn is a {Other.__module__}.Other"),
        (patch_attn, "its attn has forward replaced on the object"),
        (patch_method, "it has _attn replaced on the object"),
    ],
)
def test_the_attention_inside_a_block(change, reason):
    block = animate(SwinTransformerBlock(16, (14, 14), num_heads=2)).eval()
    change(block)
    x = torch.randn(1, 14, 14, 16)
    expected = block(x)
    report = fuse(block, inplace=True, check=False).fuse_report
    assert [one.reason for one in report.left] == [reason]
    assert torch.equal(block(x), expected)  # with gradients, the replaced MLP runs the same operators


def test_the_attention_inside_a_block_of_transformers():
    from transformers.models.swin.modeling_swin import SwinAttention

    model, _, _ = build("swin")
    layer = next(one for one in model.modules() if hasattr(one, "layernorm_before"))
    layer.attention.__class__ = type("Twice", (SwinAttention,), {"forward": lambda self, *_, **__: None})
    (left,) = fuse(model, check=False).fuse_report.left
    assert left.reason == "its attention is a subclass of SwinAttention that changes forward"


def test_weights_of_other_types():
    class Sharded(torch.Tensor):
        def new_empty(self, *args, **kwargs):  # needed to copy it
            return super().new_empty(*args, **kwargs).as_subclass(Sharded)

    pair = Pair()
    pair.first.qkv.weight = nn.Parameter(torch.randn(48, 16).as_subclass(Sharded))
    assert "its qkv has weights of type " in only_reason(pair)


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "FullyShardedDataParallel"])
def test_wrapped_for_several_devices(wrapper):
    pair = Pair()
    pair.first = type(wrapper, (Other,), {"forward": lambda self, x: self.attn(x)})(pair.first)
    (left,) = fuse(pair, example=X).fuse_report.left
    assert left.path == "first.attn"
    assert "call fuse first" in left.reason


def test_gates():
    assert only_reason(Pair(gated=True)) == "its output is gated"


def test_other_versions():
    pair = Pair()
    pair.first.scale_of_old = pair.first.__dict__.pop("scale")
    pair.first.fused_attn = True
    assert only_reason(pair) == "this version has no scale"


def test_other_attention_is_named():
    pair = Pair(timm.layers.AttentionRope(16, num_heads=2))
    assert only_reason(pair).startswith("regard does not know this class of timm.layers.attention")


def test_fused_already():
    fused = fuse(fuse(Pair(), example=X), example=X)
    assert [one.reason for one in fused.fuse_report.left] == ["it is fused already"] * 2


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Identity(), create_model("nat_nano", num_classes=3)])
def test_nothing_to_replace(model):
    fused = fuse(model)
    assert fused is not model
    assert str(fused.fuse_report).startswith("nothing")


def test_not_a_module():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        fuse("swin_tiny")


def test_a_model_that_cannot_be_copied():
    pair = Pair()
    pair.lock = threading.Lock()
    with pytest.raises(UnsupportedError, match="pass inplace=True"):
        fuse(pair)
    assert fuse(pair, inplace=True, example=X) is pair


class Wrong(for_timm.vit.Attention):
    def forward(self, x, attn_mask=None, is_causal=False):
        out = super().forward(x, attn_mask, is_causal)
        return out * 1.001 if self.num_heads == 4 else out


class Failing(Wrong):
    def forward(self, x, attn_mask=None, is_causal=False):
        if self.num_heads == 4:
            raise RuntimeError("no")
        return super().forward(x)


@pytest.mark.parametrize("adapter", [Wrong, Failing])
@pytest.mark.parametrize("inplace", [False, True])
def test_what_disagrees_is_rolled_back(monkeypatch, adapter, inplace):
    adapters = (adapter if one is for_timm.vit.Attention else one for one in rules.ADAPTERS)
    monkeypatch.setattr(rules, "ADAPTERS", tuple(adapters))
    assert "rolled back" in only_reason(Pair(Attention(16, num_heads=4)), inplace=inplace)


def test_unchecked_is_said():
    report = fuse(Pair()).fuse_report
    assert "pass a batch as example=" in report.unchecked
    assert fuse(Pair(), check=False).fuse_report.unchecked == "check=False"
    assert "the original raises" in fuse(Pair(), example=torch.zeros(1, 2, 3, 4)).fuse_report.unchecked
    assert "zero" in fuse(Pair().requires_grad_(False).apply(_zero), example=X).fuse_report.unchecked
    assert "meta device" in fuse(timm.create_model("deit_tiny_patch16_224", device="meta")).fuse_report.unchecked


def _zero(module):
    for parameter in module.parameters(recurse=False):
        parameter.zero_()


@pytest.mark.parametrize("example", [X, (X,), {"x": X}])
def test_examples(example):
    assert fuse(Pair(), example=example).fuse_report.difference is not None


def test_the_check_leaves_no_trace():
    model, _, _ = build("swiftformer_xs")
    model.train()
    model.stem.eval()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fuse(model)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert not model.stem.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert not any(one._forward_hooks for one in model.modules())


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", ["cait_xxs24_224", "swin_tiny_patch4_window7_224", "mobilevitv2_050"])
def test_attention_dropout_trains_as_before(name):
    model, kind, _ = build(name)
    for module in model.modules():
        if type(module).__name__ in (kind, "WindowAttention"):
            (module.attn if hasattr(module, "attn") else module).attn_drop.p = 0.5
    fused = fuse(model, check=False)
    assert any("with attention dropout 0.5" in one.note for one in fused.fuse_report.replaced)
    x = image(name, batch=1)
    for network in (model, fused):
        for module in network.modules():  # batch norms keep their statistics
            module.training = isinstance(module, (nn.Dropout,)) or "Att" in type(module).__name__
    exact = copy.deepcopy(model).double()

    def seeded(network, x):
        torch.manual_seed(0)
        return logits(network, x)

    assert_within_budget(seeded(fused, x), truth(lambda x: seeded(exact, x), x, draws=DRAWS))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_maps_of_transformers(name):
    factory, config, _, _ = HF[name]
    eager = factory(copy.deepcopy(config)).eval()
    eager.set_attn_implementation("eager")
    report = fuse(eager).fuse_report
    assert all(one.module.endswith("MLP") for one in report.replaced)
    assert all("load it with 'sdpa'" in one.reason for one in report.left)
    eager.set_attn_implementation("sdpa")
    fused = fuse(animate(eager))
    assert fused.fuse_report.replaced
    fused.set_attn_implementation("eager")
    eager.set_attn_implementation("eager")
    x = image(name)
    exact = copy.deepcopy(eager).double()
    got = fused(x, output_attentions=True).attentions
    assert len(got) == 2
    assert_within_budget(got, truth(lambda x: exact(x, output_attentions=True).attentions, x, draws=DRAWS))
    states = fused(x, output_hidden_states=True).hidden_states
    assert_within_budget(states, truth(lambda x: exact(x, output_hidden_states=True).hidden_states, x, draws=DRAWS))
    assert len(fuse(eager, check=False).fuse_report.left) == len(report.left)


def test_hooks_of_transformers_are_no_obstacle():
    model, _, times = build("vit")
    model(image("vit"), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert len(fuse(model).fuse_report.replaced) == times


def test_dinat_runs_without_natten():
    """transformers needs NATTEN to run its modules, not to build them; the adapter does not need it."""
    from transformers.models.dinat.modeling_dinat import NeighborhoodAttention

    config = SimpleNamespace(qkv_bias=True, attention_probs_dropout_prob=0.0)
    model = animate(NeighborhoodAttention(config, 16, 2, 3, 2))
    x = torch.randn(1, 7, 8, 16)
    fused = fuse(model, example=x)
    (replaced,) = fused.fuse_report.replaced
    assert replaced.mechanism == "neighborhood attention"
    assert "the original raises" in fused.fuse_report.unchecked
    exact = copy.deepcopy(model).double()

    def attend(x):
        heads = (layer(x).unflatten(-1, (2, 8)) for layer in (exact.query, exact.key, exact.value))
        return neighborhood_attention(*heads, 3, dilation=2, bias=exact.rpb, backend="reference").flatten(-2)

    assert_within_budget(fused(x), truth(attend, x))


def test_classes_are_made_once():
    pair = fuse(Pair(), check=False)
    assert type(pair.first) is type(pair.second)
    assert isinstance(pair.first, Attention)
    adapter.detach(pair.first)
    assert type(pair.first) is Attention
