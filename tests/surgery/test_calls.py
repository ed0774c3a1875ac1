"""Calls of fused models: after hooks, quantization or pruning, under autocast, in training."""

import copy
from types import MethodType

import pytest
import timm
import torch
from timm.layers import Attention, Mlp, create_feature_extractor
from timm.models.cait import ClassAttn, TalkingHeadAttn
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch.nn.utils import prune

from budget import assert_within_budget, error, truth
from regard.surgery import fuse
from tests.surgery.models import DRAWS, X, animate, assert_agrees, build, image, logits, truth_of, truth_of_build

GRID = torch.randn(2, 14, 14, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def talking():
    torch.manual_seed(0)
    return animate(TalkingHeadAttn(16, num_heads=2)).eval()


@pytest.mark.filterwarnings("ignore")
def test_quantized_afterwards(talking):
    original, fused = (
        torch.ao.quantization.quantize_dynamic(one, {nn.Linear}) for one in (talking, fuse(talking, example=X))
    )
    with torch.no_grad():
        assert torch.equal(fused(X), original(X))  # both run the upstream forward


def test_pruned_afterwards(talking):
    fused = fuse(copy.deepcopy(talking), example=X)
    for one in (talking, fused):
        prune.l1_unstructured(one.proj_l, "weight", amount=1)
        one(X).sum().backward()
        with torch.no_grad():
            one.proj_l.weight_orig.mul_(2)
    assert torch.equal(fused(X), talking(X))  # both run the upstream forward
    fused(X).sum().backward()


def twice(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)


def patch(layer):
    layer.forward = MethodType(lambda self, x: 2 * type(self).forward(self, x), layer)


@pytest.mark.parametrize("part", ["proj_l", "proj_w", "attn_drop"])
@pytest.mark.parametrize("change", [twice, patch])
def test_parts_of_talking_heads_that_are_read(talking, part, change):
    fused = fuse(talking, example=X)
    for one in (talking, fused):
        change(one.get_submodule(part))
    with torch.no_grad():
        assert_agrees(fused(X), talking, X)


def test_wrapped_afterwards(talking):
    class Low(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, x):
            return 3 * self.layer(x)

    fused = fuse(talking, example=X)
    talking.proj_w, fused.proj_w = Low(talking.proj_w), Low(talking.proj_w)
    assert_agrees(fused(X), talking, X)


def test_the_fused_path_is_taken(talking, monkeypatch):
    for inference in (False, True):
        fused = fuse(nn.Sequential(talking, nn.Identity()), example=X, inference=inference)
        monkeypatch.setattr(TalkingHeadAttn, "forward", None)
        with torch.no_grad():
            fused(X)
        monkeypatch.undo()


@pytest.mark.parametrize("part", ["", "attn_drop"])
def test_hooks_on_swins_attention(part):
    block = animate(SwinTransformerBlock(16, (14, 14), num_heads=2)).eval()
    fused, calls = fuse(block, example=GRID), []
    attn = fused.attn.get_submodule(part) if part else fused.attn
    fused.attn.fused_attn = False
    attn.register_forward_hook(lambda *_: calls.append(part))
    assert_agrees(fused(GRID), block, GRID)
    assert calls


@pytest.mark.parametrize("kind", [Attention, ClassAttn])
def test_hooks_on_attention_weights(kind):
    fused, calls = fuse(kind(16, num_heads=2).eval(), example=X), []
    fused.fused_attn = False
    fused.attn_drop.register_forward_hook(lambda module, args, output: calls.append(output.shape))
    fused(X)
    assert calls


@pytest.mark.parametrize("part", ["attention", "attention.relative_position_bias"])
def test_hooks_on_the_attention_of_transformers_swin(part):
    model, _, _ = build("swin")
    fused, calls = fuse(model), []
    for module in (model, fused):
        layer = next(one for one in module.modules() if hasattr(one, "layernorm_before"))
        layer.get_submodule(part).register_forward_hook(lambda *_: calls.append(part))
    with torch.no_grad():
        logits(model, image("swin"))
        assert_within_budget(logits(fused, image("swin")), truth_of_build("swin"))
    assert len(calls) == 2


def test_hooks_on_activations_of_transformers():
    model, _, _ = build("vit")
    fused = fuse(model)
    with torch.no_grad():
        for one in (model, fused):
            first, second = (module for module in one.modules() if hasattr(module, "activation_fn"))
            first.activation_fn = copy.deepcopy(first.activation_fn)  # all layers share one
            first.activation_fn.act = torch.tanh
            second.activation_fn = copy.deepcopy(second.activation_fn)
            twice(second.activation_fn)
        assert_agrees(logits(fused, image("vit")), model, image("vit"))


@pytest.mark.one_parameter
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["swiftformer_xs", "cait_xxs24_224", "swin", "vit"])
def test_autocast(name, inference):
    """The weights and the image have bfloat16 values, so only what the calls round counts."""
    model, x = build(name)[0].bfloat16().float(), image(name, batch=1).bfloat16().float()
    fused = fuse(model, inference=inference)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = logits(fused, x)
    expected = truth_of(model, x, dtype=torch.bfloat16)
    assert error(got, expected.exact[0]) <= expected.allowed[0]


TRAINED = {
    "attention": (lambda: Attention(16, num_heads=2, attn_drop=0.3, proj_drop=0.3), X),
    "class attention": (lambda: ClassAttn(16, num_heads=2, attn_drop=0.3, proj_drop=0.3), X),
    "talking heads": (lambda: TalkingHeadAttn(16, num_heads=2, proj_drop=0.3), X),
    "mlp": (lambda: Mlp(16, 24, drop=0.3), X),
    "swin": (lambda: SwinTransformerBlock(16, (14, 14), num_heads=2, drop_path=0.5), GRID),
}


def seeded(model, seed=0):
    """Return a float64 copy of a model as a function that sets the seed."""
    model = copy.deepcopy(model).double()

    def compute(x):
        torch.manual_seed(seed)
        return logits(model, x)

    return compute


@pytest.mark.parametrize("name", TRAINED)
def test_training_drops_alike(name):
    make, x = TRAINED[name]
    model = animate(make())
    fused, outputs = fuse(model, example=x).train(), []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        outputs.append(fused(x))
        assert_within_budget(outputs[-1], truth(seeded(model.train(), seed), x))
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("name", ["talking heads", "swin"])
def test_second_derivatives(name):
    make, x = TRAINED[name]
    model = animate(make()).eval()

    def second(model):
        def compute(x):
            x = x.detach().requires_grad_()
            (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            return torch.autograd.grad(first.square().sum(), x)

        return compute

    got = second(fuse(model, check=False))(x)
    assert_within_budget(got, truth(second(copy.deepcopy(model).double()), x))


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_transformers_drop_alike_in_training(name):
    model, _, _ = build(name)
    for module in model.modules():
        if type(module).__name__ == "SwinLayer":
            module.drop_path = type(module.drop_path)() if isinstance(module.drop_path, nn.Dropout) else nn.Dropout(0.3)
        elif hasattr(module, "attention_dropout") and name == "vit":
            module.attention_dropout = 0.3
    fused, x = fuse(model).train(), image(name)
    torch.manual_seed(0)
    got = logits(fused, x)
    assert_within_budget(got, truth(seeded(model.train()), x, draws=DRAWS))
    assert not torch.allclose(got, logits(model.eval(), x), rtol=1e-3)


@pytest.mark.one_parameter
@pytest.mark.filterwarnings("ignore:NOTE")  # swin's graphs differ in training
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["cait_xxs24_224", "swin_tiny_patch4_window7_224", "swiftformer_xs"])
def test_features_of_timm(name, inference):
    model, _, _ = build(name)
    fused, x = fuse(model, inference=inference), image(name, batch=1)
    with torch.no_grad():
        features = create_feature_extractor(fused, ["norm"])(x)["norm"]
    extractor = create_feature_extractor(copy.deepcopy(model).double(), ["norm"])
    assert_within_budget(features, truth(lambda x: extractor(x)["norm"], x, draws=DRAWS))


def test_made_on_another_default_device():
    model, _, times = build("vit_tiny_patch16_224")
    with torch.device("meta"):
        report = fuse(model).fuse_report
    assert len(report.replaced) == times
    assert report.difference is not None


def test_masks_run_as_before():
    model = Attention(16, num_heads=2)
    fused = fuse(model, example=X)
    mask = torch.randn(9, 9)
    assert torch.equal(fused(X, attn_mask=mask), model(X, attn_mask=mask))
    assert torch.equal(fused(X, is_causal=True), model(X, is_causal=True))


def test_ragged_grids_run_as_before():
    model = animate(
        timm.create_model("swin_tiny_patch4_window7_224", depths=(2,), img_size=(40, 56), num_classes=3)
    ).eval()
    fused = fuse(model)
    assert "no multiple of the window" in str(fused.fuse_report)
    blocks = [one for one in fused.fuse_report.replaced if one.module == "SwinTransformerBlock"]
    assert [one.difference for one in blocks] == [0.0, 0.0]
