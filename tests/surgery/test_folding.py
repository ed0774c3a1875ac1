"""What folding must leave alone, with and without the check."""

import copy
import pickle
import sys
import threading

import pytest
import timm
import torch
from timm.layers import Attention, GluMlp, StdConv2d
from torch import nn

from budget import assert_within_budget, truth
from regard.errors import UnsupportedError
from regard.surgery import for_timm, fuse
from tests.surgery.models import animate, assert_agrees, build, image, truth_of_build

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def agrees(model, folded, x=X):
    """Compare a folded model with the original, and return the number of folded layers."""
    with torch.no_grad():
        assert_agrees(folded(x), model.eval(), x)
    return len(folded.fuse_report.folded)


def fold(model, **options):
    return fuse(model, inference=True, check=False, measure=False, **options)


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


def norm():
    return nn.BatchNorm2d(4)


def test_convolutions_and_norms():
    model = animate(nn.Sequential(conv(), norm(), nn.ReLU(), conv(), norm()))
    assert agrees(model, fold(model)) == 2


def test_a_layer_twice_in_a_row():
    relu = nn.ReLU()
    model = animate(nn.Sequential(relu, conv(), relu, norm()))
    assert agrees(model, fold(model)) == 0


def test_one_convolution_before_two_norms():
    layer = conv()
    model = animate(nn.Sequential(layer, norm(), layer, norm(), conv(), norm()))
    assert agrees(model, fold(model)) == 1
    model = animate(nn.Sequential(nn.Sequential(layer, norm()), nn.Sequential(layer, norm())))
    assert agrees(model, fold(model)) == 0


def patched(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)
    return layer


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


@pytest.mark.parametrize("change", [patched, hooked])
@pytest.mark.parametrize("place", [0, 1])
def test_changed_layers(place, change):
    model = animate(nn.Sequential(conv(), norm()))
    change(model[place])
    folded = fuse(model, inference=True, inplace=True, check=False)
    assert not folded.fuse_report.folded


def test_sequences_with_another_forward():
    model = animate(nn.Sequential(conv(), norm()))
    model.forward = lambda x: model[1](model[0](x) + 1)
    assert not fuse(model, inference=True, inplace=True, check=False).fuse_report.folded


def test_standardized_convolutions():
    model = animate(nn.Sequential(StdConv2d(4, 4, 3, padding=1), norm()))
    assert agrees(model, fold(model)) == 0


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("name", ["DistributedDataParallel", "FullyShardedDataParallel", "Wrapped"])
def test_wrappers_for_several_devices(name):
    model = animate(nn.Sequential(conv(), norm()))
    wrapped = type(name, (Wrapped,), {})(model)
    assert len(fold(wrapped).fuse_report.folded) == (name == "Wrapped")


def vit(**options):
    return animate(
        timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64, init_values=0.1, num_classes=3, **options)
    ).eval()


@pytest.mark.one_parameter
@pytest.mark.parametrize("place", ["ls1", "attn", "attn.proj", "attn.proj_drop", "norm2", "ls2", "mlp", "mlp.drop2"])
def test_layer_scales_next_to_hooks(place):
    model, seen = vit(), []
    model.blocks[0].get_submodule(place).register_forward_hook(lambda module, args, output: seen.append(output))
    folded, exact = fold(model), copy.deepcopy(model).double()

    def output(x):
        exact(x)
        return seen.pop()

    norm2 = not place.startswith(("ls2", "mlp"))  # becomes a part of the MLP
    assert agrees(model, folded, image("vit")) == 1 + norm2
    assert_within_budget(seen[0], truth(output, image("vit")))


@pytest.mark.parametrize("change", [{"mlp_layer": GluMlp}, {"attn_layer": timm.layers.AttentionRope}])
def test_blocks_of_other_parts(change):
    if "attn_layer" in change:
        model = vit()
        model.blocks[0].attn = animate(timm.layers.AttentionRope(192, num_heads=3))
    else:
        model = vit(**change)
    assert agrees(model, fold(model), image("vit")) == (2 if "attn_layer" in change else 1)


@pytest.mark.exhaustive
def test_networks_of_other_parts():
    folded = fuse(timm.create_model("vitamin_small_224", num_classes=3), inference=True, check=False)
    assert not folded.fuse_report.notes[0].startswith("foldings were rolled back")


def test_errors_leave_the_model_unfolded(monkeypatch):
    model = animate(nn.Sequential(conv(), norm(), nn.Identity()))
    monkeypatch.setattr("regard.surgery.inference.conv_norm.fold_norm", lambda *_: {}["gone"])
    folded = fuse(model, inference=True, example=X)
    assert agrees(model, folded) == 0
    assert folded.fuse_report.notes == ("foldings were rolled back: KeyError: 'gone'",)
    assert not folded.training


def test_hooks_on_drop_paths_of_cait():
    model, calls = build("cait_xxs24_224")[0], []
    model.blocks[0].drop_path.register_forward_hook(lambda *_: calls.append(1))
    folded = fold(model)
    with torch.no_grad():
        folded(image("cait_xxs24_224"))
    assert len(calls) == 2


def test_compiled_blocks_stay():
    model, _, _ = build("swiftformer_xs")
    model.stages[0].blocks[0].compile(backend="eager")
    folded = fold(model)
    assert type(folded.stages[0].blocks[0]).__name__ == "ConvEncoder"
    assert type(folded.stages[1].blocks[0]).__name__ != type(model.stages[1].blocks[0]).__name__


def test_blocks_that_cannot_be_folded_do_not_change():
    """The block whose attention cannot be folded keeps its layers' weights."""
    model, _, _ = build("swiftformer_xs")
    hooked(model.stages[0].blocks[-1].attn.final)
    folded = fold(model)
    assert agrees(model, folded, image("swiftformer_xs"))
    block = folded.stages[0].blocks[-1]
    assert torch.equal(block.linear.fc1.weight, model.stages[0].blocks[-1].linear.fc1.weight)


def test_one_block_alone():
    block = animate(build("swiftformer_xs")[0].stages[0].blocks[0])
    x = torch.randn(1, block.dwconv.in_channels, 8, 8)
    assert agrees(block, fold(block), x) == 0


def test_layer_scales_that_are_not_there():
    from timm.models.swiftformer import Stage

    stage = animate(Stage(16, 0, [2], use_layer_scale=False)).eval()
    folded = fold(stage)
    agrees(stage, folded, torch.randn(1, 16, 8, 8))
    assert folded.fuse_report.folded
    assert not [one for one in folded.fuse_report.folded if "layer_scale" in one.path]


def test_what_cannot_be_copied_does_not_change():
    model = nn.Sequential(Attention(16, num_heads=2))
    model.lock = threading.Lock()
    with pytest.raises(UnsupportedError, match="leave out inference=True"):
        fuse(model, inplace=True, inference=True, example=torch.randn(1, 4, 16))
    assert type(model[0]) is Attention
    assert not hasattr(model, "fuse_report")


def test_foldings_that_disagree_are_rolled_back(monkeypatch):
    model, _, times = build("swiftformer_xs")

    def spoil(folded, *_):
        folded.norm.bias.data.mul_(2)
        return ()

    monkeypatch.setattr(sys.modules["regard.surgery.choose"], "fold_layers", spoil)
    fused = fuse(model, inference=True)
    assert "foldings were rolled back" in str(fused.fuse_report)
    assert len(fused.fuse_report.replaced) == times
    x = image("swiftformer_xs")
    assert_within_budget(fused(x), truth_of_build("swiftformer_xs"))


def test_folding_keeps_modules_with_hooks():
    model, _, _ = build("swiftformer_xs")
    calls = []
    model.stages[0].blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    model.stem[0].register_forward_hook(lambda *_: calls.append("stem"))
    fused = fuse(model, inference=True)
    calls.clear()
    fused(image("swiftformer_xs"))
    assert calls == ["stem", "block"]
    assert fused.fuse_report.folded


def mobilevit(**options):
    """A network whose grids are 8, 4 and 3 wide, the last of which is resized for patches of 2."""
    return animate(timm.create_model("mobilevitv2_050", num_classes=3, **options)).eval()


@pytest.mark.exhaustive
def test_patches_are_not_unfolded():
    model = mobilevit()
    folded = fold(model)
    blocks = [one for one in folded.modules() if isinstance(one, for_timm.mobilevitv2.GridBlock)]
    assert len(blocks) == 3
    for size in ((64, 64), (72, 96)):  # grids of 9 and of 3 rows are resized
        assert agrees(model, folded, torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    again = pickle.loads(pickle.dumps(folded))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), folded(x))


@pytest.mark.one_parameter
@pytest.mark.parametrize("change", ["hook", "forward", "mlp", "norm", "attention"])
def test_patches_that_others_see_are_unfolded(change):
    model = mobilevit()
    outer = next(one for one in model.modules() if type(one).__name__ == "MobileVitV2Block")
    block, channels = outer.transformer[0], outer.conv_1x1.out_channels
    if change == "hook":
        hooked(block.mlp)
    elif change == "mlp":
        block.mlp = nn.Sequential(nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)))
    elif change == "norm":
        block.norm1 = nn.InstanceNorm2d(channels)
    elif change == "attention":
        block.attn.attn_drop.register_forward_hook(lambda *_: None)
    else:
        block.__class__ = type(
            "Doubled", (type(block),), {"forward": lambda self, x: 2 * super(type(self), self).forward(x)}
        )
    folded = fold(model)
    assert sum(isinstance(one, for_timm.mobilevitv2.GridBlock) for one in folded.modules()) == 2
    assert agrees(model, folded, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def test_folded_patches_drop_attention_weights_in_training():
    model = mobilevit()
    for module in model.modules():
        if hasattr(module, "attn_drop"):
            module.attn_drop.p = 0.5
    folded, x = fold(model), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = folded(x)
        for module in folded.modules():
            module.training = hasattr(module, "attn_drop")
        assert not torch.allclose(folded(x), expected)
