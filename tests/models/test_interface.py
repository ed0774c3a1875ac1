"""The interface that timm's tools use is the same whatever the family."""

import pytest
import torch
from timm.models import group_parameters
from torch import nn

from regard.attention import set_backend
from regard.errors import OptionError, ShapeError

from .networks import SMALL, images, small


@pytest.mark.parametrize("name", SMALL)
def test_intermediates(name):
    model = small(name).eval()
    x = images(16, 16)
    last = len(model.feature_info) - 1
    with torch.no_grad():
        features, every = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x))
        wanted = ((1, [last]), (2, [last - 1, last]), ([0, -1], [0, last]), ((2, 0), [0, 2]), ([], []))
        for indices, expected in wanted:
            for options in ({}, {"stop_early": True}):
                got = model.forward_intermediates(x, indices, intermediates_only=True, **options)
                assert len(got) == len(expected)
                assert all(torch.equal(stage, every[index]) for stage, index in zip(got, expected, strict=True))
        normed = model.forward_intermediates(x, [0, last], norm=True, intermediates_only=True)
        assert normed[-1].shape == every[last].shape
        assert torch.equal(normed[-1], every[last]) == (not hasattr(model, "norm"))
    for indices in ([last + 1], [-last - 2], last + 2, 0, -1, [1.5]):
        with pytest.raises(ShapeError, match=f"indices must name some of the {last + 1} stages"):
            model.forward_intermediates(x, indices)
    with pytest.raises(OptionError, match="unknown output_fmt 'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


@pytest.mark.parametrize("name", SMALL)
def test_prune_intermediate_layers(name):
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        expected = model.forward_intermediates(x, [0, 1], intermediates_only=True)
        assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
        got = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert len(model.feature_info) == 2 and model.num_features == model.feature_info[-1]["num_chs"]
    for indices in ([], 0):
        with pytest.raises(ShapeError, match="indices must name"):
            model.prune_intermediate_layers(indices)


@pytest.mark.parametrize("name", SMALL)
def test_pruning_keeps_a_norm_that_fits(name):
    """Blocks of one width can be normed wherever they are; a narrower stage cannot."""
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        expected = model.forward_intermediates(x, [1], norm=True, intermediates_only=True)
        model.prune_intermediate_layers([1])
        got = model.forward_intermediates(x, [1], norm=True, intermediates_only=True)
    assert torch.equal(got[0], expected[0])


@pytest.mark.parametrize("name", SMALL)
def test_layer_groups(name):
    """timm's decay by layer gives every parameter a place, from the images to the logits."""
    model = small(name)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        assert groups[f"{model.first_conv}.weight"] == 0
        last = max(groups.values())
        assert groups["head.weight"] == last and last >= len(model.feature_info)
        places = [groups[key] for key in groups if key.startswith(f"{model.stage_list}.") and key.endswith(".weight")]
        assert places == sorted(places)


@pytest.mark.parametrize("name", SMALL)
def test_reset_classifier(name):
    model = small(name).eval().double()
    classifier = model.get_classifier()
    assert all(
        isinstance(layer, nn.Linear) for layer in (classifier if isinstance(classifier, tuple) else [classifier])
    )
    x = images(16, 16).double()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(7, model.pooling)
    assert model(x).shape == (2, 7)
    with pytest.raises(OptionError, match="unknown global_pool 'max'"):
        model.reset_classifier(7, "max")
    with pytest.raises(ShapeError, match="a classifier needs pooled features"):
        model.reset_classifier(7, "")
    model.reset_classifier(0, "")
    model.reset_classifier(7)  # a classifier after all
    assert model(x).shape == (2, 7)
    with pytest.raises(TypeError, match=r"num_classes must be a whole number, got 2\.5"):
        model.reset_classifier(2.5)
    assert model.num_classes == 7
    with pytest.raises(ShapeError, match="num_classes must be at least 0"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", SMALL)
def test_weight_decay_names_exist(name):
    model = small(name)
    assert model.no_weight_decay() <= {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
def test_set_backend(name):
    model = small(name)
    modules = [module for module in model.modules() if hasattr(module, "backend")]
    assert len(modules) >= 3 and all(module.backend is None for module in modules)
    set_backend(model, "reference")
    assert all(module.backend == "reference" for module in modules)
    with pytest.raises(OptionError, match="unknown backend 'fusd'; did you mean 'fused'"):
        set_backend(model, "fusd")
