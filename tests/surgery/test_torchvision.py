"""`fuse` on whole models of torchvision, and on models of timm of which a part stays as it is."""

import copy

import pytest
import timm
import torch
from torchvision.models import VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.video.swin_transformer import SwinTransformer3d

from budget import assert_within_budget, truth
from regard.attention import set_backend
from regard.surgery import fuse
from tests.surgery.models import DRAWS, animate, truth_of

SIZES = {"embed_dim": 8, "depths": [2], "num_heads": [2], "num_classes": 3}
MODELS = {
    "swin": (
        lambda: SwinTransformer([4, 4], window_size=[3, 3], **SIZES),
        (3, 20, 28),
        {"MLP", "ShiftedWindowAttention"},
    ),
    "swin v2": (
        lambda: SwinTransformer(
            [4, 4],
            window_size=[4, 4],
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
            **{**SIZES, "depths": [2, 1], "num_heads": [2, 2]},
        ),
        (3, 32, 40),
        {"MLP", "ShiftedWindowAttentionV2"},
    ),
    "video swin": (
        lambda: SwinTransformer3d([2, 4, 4], window_size=[2, 3, 3], **SIZES),
        (3, 6, 20, 24),
        {"MLP", "ShiftedWindowAttention3d"},
    ),
    "vit": (
        lambda: VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3),
        (3, 16, 16),
        {"MLPBlock"},
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, size, kinds = MODELS[request.param]
    torch.manual_seed(0)
    x = torch.randn(1, *size)
    return animate(make()).eval(), x, kinds


def test_models(case):
    model, x, kinds = case
    expected = truth_of(model, x)
    fused = fuse(model, example=x)
    report = fused.fuse_report
    assert {one.module for one in report.replaced} == kinds
    assert 0 <= report.difference <= report.tolerance
    assert list(fused.state_dict()) == list(model.state_dict())
    for backend in ("fused", "reference"):
        set_backend(fused, backend)
        with torch.inference_mode():
            assert_within_budget(fused(x), expected)
    folded = fuse(model, example=x, inference=True)
    assert [note.split(" ", 1)[1] for note in folded.fuse_report.notes] == [
        "layers keep a second copy of their weights, in a kernel's layout"
    ]
    with torch.inference_mode():
        assert_within_budget(folded(x), expected)


def test_gradients(case):
    model, x, _ = case

    def gradients(model):
        return lambda x: torch.autograd.grad(model(x).square().sum(), list(model.parameters()))

    expected = truth(gradients(copy.deepcopy(model).double()), x, draws=DRAWS)
    assert_within_budget(gradients(fuse(model, example=x))(x), expected)


def test_what_is_left_in_torchvision():
    make, size, _ = MODELS["vit"]
    (left,) = fuse(make(), example=torch.randn(1, *size)).fuse_report.left
    assert left.module == "MultiheadAttention"


def test_features_of_torchvision(case):
    model, x, _ = case
    fused = fuse(model, example=x)
    kinds = list({type(fused.get_submodule(one.path)) for one in fused.fuse_report.replaced})
    name = fused.fuse_report.replaced[-1].path
    extractor = create_feature_extractor(fused, {name: "out"}, tracer_kwargs={"leaf_modules": kinds})
    exact, outputs = copy.deepcopy(model).double(), []
    exact.get_submodule(name).register_forward_hook(lambda module, args, output: outputs.append(output))

    def inside(x):
        exact(x)
        return outputs.pop()

    assert_within_budget(extractor(x)["out"].detach(), truth(inside, x, draws=DRAWS))


def test_davit():
    torch.manual_seed(0)
    model = timm.create_model(
        "davit_tiny", depths=(1, 1), embed_dims=(16, 16), num_heads=(2, 2), window_size=3, num_classes=3
    )
    model, x = animate(model).eval(), torch.randn(1, 3, 32, 40)
    fused = fuse(model, example=x)
    assert [one.module for one in fused.fuse_report.replaced] == ["SpatialBlock", "Mlp", "Mlp"] * 2
    assert [one.module for one in fused.fuse_report.left] == ["ChannelAttention"] * 2
    with torch.no_grad():
        assert_within_budget(fused(x), truth_of(model, x))
