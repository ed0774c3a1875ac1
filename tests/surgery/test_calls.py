"""What others do to a model after `fuse`, or around a call of it, counts: hooks, quantizers, autocast, training."""

import copy

import pytest
import timm
import torch
from timm.layers import Attention, Mlp, create_feature_extractor
from timm.models.cait import ClassAttn, TalkingHeadAttn
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch.nn.utils import prune

from regard.surgery import fuse
from tests.surgery.models import X, animate, build, image, logits

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
        torch.testing.assert_close(fused(X), original(X), rtol=0, atol=0.1)


def test_pruned_afterwards(talking):
    fused = fuse(copy.deepcopy(talking), example=X)
    for one in (talking, fused):
        prune.l1_unstructured(one.proj_l, "weight", amount=1)
        one(X).sum().backward()
        with torch.no_grad():
            one.proj_l.weight_orig.mul_(2)
    torch.testing.assert_close(fused(X), talking(X))
    fused(X).sum().backward()


def twice(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)


def patch(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize("part", ["proj_l", "proj_w", "attn_drop"])
@pytest.mark.parametrize("change", [twice, patch])
def test_parts_of_talking_heads_that_are_read(talking, part, change):
    fused = fuse(talking, example=X)
    for one in (talking, fused):
        change(one.get_submodule(part))
    with torch.no_grad():
        torch.testing.assert_close(fused(X), talking(X))


def test_wrapped_afterwards(talking):
    class Low(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, x):
            return 3 * self.layer(x)

    fused = fuse(talking, example=X)
    talking.proj_w, fused.proj_w = Low(talking.proj_w), Low(talking.proj_w)
    torch.testing.assert_close(fused(X), talking(X))


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
    torch.testing.assert_close(fused(GRID), block(GRID), rtol=1e-5, atol=1e-5)
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
        torch.testing.assert_close(logits(fused, image("swin")), logits(model, image("swin")), rtol=1e-4, atol=1e-4)
    assert len(calls) == 2


def test_activations_of_transformers_are_heard():
    model, _, _ = build("vit")
    fused = fuse(model)
    with torch.no_grad():
        for one in (model, fused):
            first, second = (module for module in one.modules() if hasattr(module, "activation_fn"))
            first.activation_fn = copy.deepcopy(first.activation_fn)  # all layers share one
            first.activation_fn.act = torch.tanh
            second.activation_fn = copy.deepcopy(second.activation_fn)
            twice(second.activation_fn)
        torch.testing.assert_close(logits(fused, image("vit")), logits(model, image("vit")), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["swiftformer_xs", "cait_xxs24_224", "swin", "vit"])
def test_autocast(name, inference):
    model, _, _ = build(name)
    fused, x = fuse(model, inference=inference), image(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = logits(fused, x).float()
    with torch.no_grad():
        expected = logits(model, x)
    assert (got - expected).abs().max() <= 0.1 * expected.abs().max()


TRAINED = {
    "attention": (lambda: Attention(16, num_heads=2, attn_drop=0.3, proj_drop=0.3), X),
    "class attention": (lambda: ClassAttn(16, num_heads=2, attn_drop=0.3, proj_drop=0.3), X),
    "talking heads": (lambda: TalkingHeadAttn(16, num_heads=2, proj_drop=0.3), X),
    "mlp": (lambda: Mlp(16, 24, drop=0.3), X),
    "swin": (lambda: SwinTransformerBlock(16, (14, 14), num_heads=2, drop_path=0.5), GRID),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_drops_alike(name):
    make, x = TRAINED[name]
    model = animate(make())
    fused, outputs = fuse(model, example=x), []
    for seed in (0, 1, 2):
        for one in (model.train(), fused.train()):
            torch.manual_seed(seed)
            outputs.append(one(x))
        torch.testing.assert_close(outputs[-1], outputs[-2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize("name", ["talking heads", "swin"])
def test_second_derivatives(name):
    make, x = TRAINED[name]
    model, x = animate(make()).eval(), x.clone().requires_grad_()
    seconds = []
    for one in (model, fuse(model, check=False)):
        (first,) = torch.autograd.grad(one(x).square().sum(), x, create_graph=True)
        seconds += torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(seconds[1], seconds[0], rtol=1e-4, atol=1e-5 * float(seconds[0].abs().max()))


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_transformers_drop_alike_in_training(name):
    model, _, _ = build(name)
    for module in model.modules():
        if type(module).__name__ == "SwinLayer":
            module.drop_path = type(module.drop_path)() if isinstance(module.drop_path, nn.Dropout) else nn.Dropout(0.3)
        elif hasattr(module, "attention_dropout") and name == "vit":
            module.attention_dropout = 0.3
    fused, outputs = fuse(model), []
    for one in (model.train(), fused.train()):
        torch.manual_seed(0)
        outputs.append(logits(one, image(name)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs[0], logits(model.eval(), image(name)), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:NOTE")  # swin's graphs differ in training
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["cait_xxs24_224", "swin_tiny_patch4_window7_224", "swiftformer_xs"])
def test_features_of_timm(name, inference):
    model, _, _ = build(name)
    fused, x = fuse(model, inference=inference), image(name, batch=1)
    with torch.no_grad():
        features = create_feature_extractor(fused, ["norm"])(x)["norm"]
        expected = create_feature_extractor(model, ["norm"])(x)["norm"]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


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
