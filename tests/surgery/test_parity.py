"""Adapters against their upstream modules: outputs and gradients, for every option that changes what they compute."""

import copy

import pytest
import torch
from torch import nn

from budget import assert_within_budget, error, truth
from regard.attention import set_backend
from regard.errors import UnsupportedError
from regard.surgery import fuse
from tests.surgery import blocks
from tests.surgery.models import DRAWS, truth_of


def adapt(model, backend):
    """Return a fused copy of one module, on a backend."""
    fused = fuse(model, check=False)
    assert fused.fuse_report.replaced[0].path == ""
    set_backend(fused, backend)
    return fused


def gradients(model):
    """Return a function of the inputs: the gradients of the inputs and of all parameters that count."""

    def compute(*inputs):
        inputs = [one.detach().requires_grad_() for one in inputs]
        leaves = [*inputs, *model.parameters()]
        grads = torch.autograd.grad(model(*inputs).square().sum(), leaves, allow_unused=True)
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(leaves, grads, strict=True)]

    return compute


@pytest.fixture(scope="module", params=blocks.FUSED)
def case(request):
    """A module, its inputs, and the truth of its outputs and of its gradients."""
    make, inputs = blocks.FUSED[request.param]
    model = blocks.build(make)
    exact = copy.deepcopy(model).double()
    return model, inputs, truth_of(model, *inputs), truth(gradients(exact), *inputs, draws=DRAWS)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_outputs_and_gradients(case, backend):
    model, inputs, outputs, grads = case
    fused = adapt(model, backend)
    with torch.no_grad():
        assert_within_budget(fused(*inputs), outputs)
    assert_within_budget(gradients(fused)(*inputs), grads)


@pytest.mark.parametrize("name", blocks.ONE_OF_EACH)
def test_autocast(name):
    """The weights and the inputs have bfloat16 values, so only what the calls round counts."""
    make, inputs = blocks.FUSED[name]
    model, inputs = blocks.build(make).bfloat16().float(), [one.bfloat16().float() for one in inputs]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = fuse(model, check=False)(*inputs)
    expected = truth_of(model, *inputs, dtype=torch.bfloat16)
    assert error(got, expected.exact[0]) <= expected.allowed[0]


@pytest.mark.parametrize("name", blocks.ONE_OF_EACH)
def test_inference(name):
    """Separate biases of query and value become the projection's."""
    make, inputs = blocks.FUSED[name]
    model = blocks.build(make)
    folded = fuse(model, inference=True, check=False)
    separate = any(getattr(one, "q_bias", None) is not None for one in model.modules())
    assert [one.path.rpartition(".")[2] for one in folded.fuse_report.folded] == ["q_bias", "v_bias"] * separate
    with torch.inference_mode():
        assert_within_budget(folded(*inputs), truth_of(model, *inputs))


@pytest.mark.parametrize("place", range(len(blocks.DROPPING)))
def test_dropping_trains_as_before(place):
    make, inputs, note = blocks.DROPPING[place]
    model = blocks.build(make)
    fused = fuse(model, check=False)
    assert note in fused.fuse_report.replaced[0].note
    outputs = []
    for seed, one in ((0, model.train()), (0, fused.train()), (1, fused)):
        torch.manual_seed(seed)
        outputs.append(one(*inputs))
    assert torch.equal(outputs[0], outputs[1])  # both run the upstream forward
    assert not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize(("part", "change"), [("qkv", "hook"), ("proj", "hook"), ("qkv", "wrap")])
def test_projections_of_torchvision_changed_afterwards(part, change):
    """torchvision reads the weights: hooks never run, and a wrapper with other results does not count."""
    make, inputs = blocks.FUSED["swin"]
    model = blocks.build(make)
    fused, calls = fuse(model, check=False), []
    if change == "hook":
        fused.get_submodule(part).register_forward_hook(lambda *_: calls.append(part))
    else:
        setattr(fused, part, Tripled(fused.get_submodule(part)))
    with torch.no_grad():
        assert torch.equal(fused(*inputs), model(*inputs))
    assert not calls


class Tripled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return 3 * nn.functional.linear(x, self.weight, self.bias)


INSIDE = (
    ("timm's swin v2", "attn"),
    ("timm's swin v2", "attn.softmax"),
    ("timm's swin v2", "attn.attn_drop"),
    ("cr", "attn"),
    ("cr", "attn.attn_drop"),
    ("cr", "attn.meta_mlp"),
    ("davit", "attn"),
    ("davit", "attn.softmax"),
    ("beit", "attn_drop"),
)


@pytest.mark.parametrize(("name", "part"), INSIDE)
def test_hooks_on_parts_that_are_not_called(name, part):
    make, inputs = blocks.FUSED[name]
    fused, calls = fuse(blocks.build(make), check=False), []
    fused.get_submodule(part.rpartition(".")[0]).fused_attn = False  # where the weights are tensors
    fused.get_submodule(part).register_forward_hook(lambda *_: calls.append(part))
    fused(*inputs)
    assert calls == [part]


def test_large_logits_of_swin_v2_are_noted():
    for name in ("swin v2 shifted", "timm's swin v2 shifted"):
        model = blocks.build(blocks.FUSED[name][0])
        assert not fuse(model, check=False).fuse_report.replaced[0].note
        scale = next(parameter for key, parameter in model.named_parameters() if key.endswith("logit_scale"))
        scale.data.fill_(4.0)
        assert "weigh exactly 0" in fuse(model, check=False).fuse_report.replaced[0].note


@pytest.mark.parametrize("name", blocks.UPSTREAM)
def test_what_runs_upstream(name):
    make, inputs, reason = blocks.UPSTREAM[name]
    model = blocks.build(make)
    with pytest.raises(UnsupportedError, match=reason):
        adapt(model, "fused")(*inputs)
    assert torch.equal(adapt(model, None)(*inputs), model(*inputs))
