"""regard's models in timm's registry: what timm's own tests ask of a model, and what timm's tools do with it."""

import math
from functools import partial

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import adapt_input_conv, get_pretrained_cfg, is_model, list_models, model_entrypoint
from timm.optim import create_optimizer_v2

from budget import assert_within_budget, truth
from regard.models import MODELS, Backbone, create_model, register_with_timm, save_weights

NAMES = register_with_timm()

SWIN = "swin_tiny_patch4_window7_224"
# a model of every family, what makes it small, and the side of its images
SMALL = {
    "swiftformer_nano": ({}, 32),
    "mobilevitv2_050": ({"depths": (1, 1, 1)}, 64),
    "nat_nano": ({}, 32),
    "dinat_s_tiny": ({"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}, 32),
    "vitrpb_small": ({"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "kernel_size": 2}, 32),
    SWIN: ({"embed_dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "img_size": 56}, 56),
    "deit_tiny_distilled_patch16_224": ({"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}, 32),
    "cait_xxs24_224": ({"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}, 32),
}
TOKENS = ("deit", "cait")


def built(name, **options):
    torch.manual_seed(0)
    return timm.create_model(f"regard_{name}", **SMALL[name][0] | options)


def images(name, batch=1, channels=3):
    side = SMALL[name][1]
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def test_every_model_is_registered():
    assert [f"regard_{name}" for name in MODELS] == NAMES == register_with_timm()
    assert set(NAMES) <= set(list_models()) and all(is_model(name) for name in NAMES)
    assert "regard_nat_mini.hf" in list_models("regard_nat_*", pretrained=True)
    assert model_entrypoint("regard_nat_mini").__name__ == "regard_nat_mini"


def test_forward(name):
    model, x = built(name).eval(), images(name)
    assert isinstance(model, Backbone)
    out = model(x)
    assert out.shape == (1, model.num_classes) and out.isfinite().all()
    model.set_grad_checkpointing()
    assert torch.equal(model(x), out)


def test_backward(name):
    model = built(name, num_classes=42).train()
    out = model(images(name, batch=2))
    assert out.shape == (2, 42)
    out.mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_default_config(name):
    model = built(name).eval()
    cfg, state = model.default_cfg, model.state_dict()
    classifiers = cfg["classifier"] if isinstance(cfg["classifier"], tuple) else (cfg["classifier"],)
    assert all(f"{layer}.weight" in state for layer in (*classifiers, cfg["first_conv"]))
    assert model.num_features > 0 and model.head_hidden_size > 0
    assert cfg["num_classes"] == MODELS[name].num_classes and cfg["license"]


@pytest.mark.parametrize("name", ["mobilevitv2_150.official_384", "swiftformer_xs", "nat_mini", "vit_tiny_patch16_224"])
def test_pool_size(name):
    """That of the size of the images that the weights were trained on, which is not always the model's."""
    cfg = get_pretrained_cfg(f"regard_{name}")
    info = create_model(name.partition(".")[0]).feature_info[-1]
    side = cfg.input_size[-1] // info["reduction"]
    assert cfg.pool_size == (None if name.startswith("vit") else (side, side))


def test_removing_the_classifier(name):
    model, x = built(name).eval(), images(name)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0 and torch.equal(model(x), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    bare = built(name, num_classes=0, global_pool="").eval()
    assert bare(x).shape == features.shape
    if not name.startswith(TOKENS):
        side = math.ceil(SMALL[name][1] / model.feature_info[-1]["reduction"])
        assert features.shape == (1, model.num_features, side, side)


def test_features_only(name):
    model, x = built(name, features_only=True).eval(), images(name)
    outputs = model(x)
    info = model.feature_info
    assert len(outputs) == len(info.channels()) >= 2
    for out, channels, reduction in zip(outputs, info.channels(), info.reduction(), strict=True):
        side = math.ceil(SMALL[name][1] / reduction)
        assert out.shape == (1, channels, side, side) and out.isfinite().all()


def test_chosen_features(name):
    model, x = built(name, features_only=True, out_indices=(0, -1)).eval(), images(name)
    whole = built(name).eval()
    expected = whole.forward_intermediates(x, [0, -1], intermediates_only=True)
    assert all(torch.equal(out, each) for out, each in zip(model(x), expected, strict=True))
    assert model.feature_info.channels() == [whole.feature_info[index]["num_chs"] for index in (0, -1)]
    assert len(list(model.parameters())) < len(list(whole.parameters()))


def test_intermediates(name):
    model, x = built(name).eval(), images(name)
    final, outputs = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x)) and len(outputs) == len(model.feature_info)
    for out, info in zip(outputs, model.feature_info, strict=True):
        side = math.ceil(SMALL[name][1] / info["reduction"])
        assert out.shape == (1, info["num_chs"], side, side)
    (last,) = model.forward_intermediates(x, 1, intermediates_only=True)
    assert torch.equal(last, outputs[-1])


def test_options_reach_the_model(name):
    model = built(name, drop_path_rate=0.25, num_classes=5, in_chans=1)
    assert model.config.drop_path_rate == 0.25 and (model.num_classes, model.in_chans) == (5, 1)
    assert model.eval()(images(name, channels=1)).shape == (1, 5)


def test_image_size_as_timm_gives_it():
    model = timm.create_model("regard_deit_tiny_distilled_patch16_224", img_size=(64, 64), depth=1)
    assert model.config.img_size == 64 and model.grid == (4, 4)


def test_unknown_options():
    with pytest.raises(ValueError, match="unknown option of nat_nano 'depth'; did you mean 'depths'"):
        timm.create_model("regard_nat_nano", depth=3)


class TestPretrained:
    """Weights in the authors' naming, as timm fetches them."""

    @pytest.fixture
    def trained(self, name, tmp_path):
        model = built(name, num_classes=MODELS[name].num_classes)
        save_weights(model, tmp_path / "authors.pth", naming="official")
        return model, {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "authors.pth")}}

    def test_loads(self, name, trained):
        upstream, options = trained
        model = built(name, **options)
        assert all(torch.equal(tensor, upstream.state_dict()[key]) for key, tensor in model.state_dict().items())

    def test_other_channels(self, name, trained):
        upstream, options = trained
        model = built(name, in_chans=1, **options)
        first = f"{upstream.first_conv}.weight"
        weight = upstream.state_dict()[first]
        assert_within_budget(model.state_dict()[first], truth(partial(adapt_input_conv, 1), weight))

    def test_other_classes(self, name, trained):
        upstream, options = trained
        model = built(name, num_classes=5, **options)
        state, kept = upstream.state_dict(), tuple(f"{layer}." for layer in upstream.classifiers)
        assert model.eval()(images(name)).shape == (1, 5)
        assert all(key.startswith(kept) or torch.equal(each, state[key]) for key, each in model.state_dict().items())

    def test_no_classes(self, name, trained):
        _, options = trained
        model = built(name, num_classes=0, **options).eval()
        assert model(images(name)).shape == (1, model.num_features)

    def test_features(self, name, trained):
        upstream, options = trained
        x = images(name)
        features = built(name, features_only=True, out_indices=(0,), **options).eval()(x)
        assert torch.equal(features[0], upstream.eval().forward_intermediates(x, [0], intermediates_only=True)[0])


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(create_model("swiftformer_nano"), tmp_path / "net.pth")
    overlay = {"file": str(tmp_path / "net.pth")}
    with pytest.raises(ValueError, match="does not fit this Nat"):
        timm.create_model("regard_nat_nano", pretrained=True, pretrained_cfg_overlay=overlay)


def test_checkpoint_path_takes_our_naming(tmp_path):
    model = timm.create_model("regard_nat_nano")
    save_weights(model, tmp_path / "net.safetensors")
    again = timm.create_model("regard_nat_nano", checkpoint_path=str(tmp_path / "net.safetensors"))
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_decay_by_layer(name):
    """Later layers learn faster, and nothing that should not decays."""
    model = built(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = {names[id(each)]: group for group in optimizer.param_groups for each in group["params"]}
    assert set(groups) == set(names.values())
    scale = {key: group["lr_scale"] for key, group in groups.items()}
    assert scale[f"{model.classifiers[0]}.weight"] == 1.0
    assert scale[f"{model.first_conv}.weight"] == min(scale.values()) < 0.5
    assert all(groups[key]["weight_decay"] == 0.0 for key in model.no_weight_decay())


def test_data_config():
    config = resolve_model_data_config(timm.create_model("regard_swiftformer_xs"))
    preprocessing = MODELS["swiftformer_xs"].weights["timm"].preprocessing
    assert config["input_size"] == (3, 224, 224) and config["crop_pct"] == preprocessing.crop_pct
    assert (config["mean"], config["std"]) == (preprocessing.mean, preprocessing.std)
    assert config["interpolation"] == preprocessing.interpolation and config["crop_mode"] == preprocessing.crop_mode


def test_weights_that_need_another_configuration_are_left_out():
    """Hugging Face's SwiftFormer has another normalizer; the authors' files are on Google Drive."""
    assert list_models("regard_swiftformer_xs*", pretrained=True) == ["regard_swiftformer_xs.timm"]
