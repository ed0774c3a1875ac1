"""The figures and tensors of every model are frozen, and the published figures are true."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regard.models import FAMILIES, MODELS

from .frozen import describe, differences, path_of, shorten
from .networks import EVERY, build_on_meta, images


@pytest.mark.one_parameter
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_models_are_frozen(family):
    """A failure lists what changed; see `frozen.py`."""
    frozen = json.loads(path_of(family).read_text())
    assert list(frozen) == list(family.variants)
    found = {name: describe(family, name) for name in frozen}
    assert differences(frozen, found) == []


def test_differences_say_what_changed():
    frozen = {"nat": {"top1": 81.8, "tensors": {"norm.bias": "[8]"}}}
    found = {"nat": {"top1": 81.9, "tensors": {"norm.bias": "[8]", "head.bias": "[2]"}}}
    assert differences(frozen, found) == ["nat/top1: 81.8 -> 81.9", "nat/tensors/head.bias: None -> [2]"]
    shapes = {f"blocks.{index}.bias": [2 if index == 3 else 1] for index in range(6)} | {"norm": [3]}
    assert shorten(shapes) == {"blocks.{0-2,4-5}.bias": "[1]", "blocks.3.bias": "[2]", "norm": "[3]"}


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    model = build_on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name].parameters


@pytest.mark.parametrize("name", [each for each in EVERY if not each.values[0].startswith("mobilevitv2")])
def test_multiplications(name):
    """Every published figure within 1 %; those of MobileViTv2 count norms, see its own test.

    The figures of regard's own small models are rounded to a digit.
    """
    size = MODELS[name].image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_on_meta(name).eval()(torch.empty(1, 3, size, size, device="meta"))
    counted = counter.get_total_flops() / 2e9
    if name.endswith("_nano"):
        assert round(counted, 3) == MODELS[name].gmacs
    else:
        assert counted == pytest.approx(MODELS[name].gmacs, rel=0.01)


@pytest.mark.parametrize("name", EVERY)
def test_shapes(name):
    model = build_on_meta(name).eval()
    x = images(64, 128).to("meta")
    features, pyramid = model.forward_intermediates(x)
    for stage, info in zip(pyramid, model.feature_info, strict=True):
        assert stage.shape == (2, info["num_chs"], 64 // info["reduction"], 128 // info["reduction"])
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    assert features.shape == model.forward_features(x).shape
    assert model.forward_head(features).shape == (2, MODELS[name].num_classes)
    assert model.get_submodule(model.first_conv).weight.shape[1] == 3


@pytest.mark.parametrize("name", MODELS)
def test_published_weights(name):
    variant = MODELS[name]
    for word, weights in variant.weights.items():
        assert word.split("_")[0] in ("official", "timm", "hf")
        assert weights.source.startswith(("https://", "hf://", "drive://")) and weights.license
        assert weights.top1 is None or 60 < weights.top1 < 90
        assert weights.preprocessing.image_size in (224, 256, 384, 448)
    assert name.endswith("_nano") or variant.weights
    assert build_on_meta(name).num_classes == variant.num_classes
    assert variant.preprocessing.image_size == variant.image_size
