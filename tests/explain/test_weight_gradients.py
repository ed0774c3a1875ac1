"""Gradients of weights from those of outputs equal autograd's through the definition."""

import pytest
import torch

from explain.networks import SMALL, build, lively
from explain.test_maps import LOCAL, SAMPLES, call_of, pooled
from regard.explain.features import cam_targets
from regard.explain.methods import METHODS, explain, receptive_field
from regard.explain.weight_gradients import output_of, weight_gradient
from regard.surgery import adapt


@pytest.mark.parametrize("sample", SAMPLES)
def test_equals_autograd(sample):
    call = call_of(sample)
    attention = call.map()
    output = output_of(call)
    gradient = torch.randn(output.shape)
    got = weight_gradient(call, attention, gradient).dense()
    weights = attention.dense().detach().clone()
    if call.mechanism.name in LOCAL:
        weights.requires_grad_()
        value = call.arguments["value"].flatten(1, -3)
        out = torch.einsum("bhnm,bmhd->bnhd", weights, value).reshape(output.shape)
        (expected,) = torch.autograd.grad(out, weights, gradient)
        if attention.keys is not None:
            seen = attention.with_weights(torch.ones_like(attention.weights)).dense()
            expected = expected * (seen > 0)
    else:  # one number per token, which all its queries share
        expected = shared_gradient(call, attention, gradient)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def shared_gradient(call, attention, gradient):
    """Autograd with respect to the token weights, spread over the queries that see a token."""
    shown = attention.dense()
    seen = attention.with_weights(torch.ones_like(attention.weights)).dense() > 0
    count = seen.sum(2, keepdim=True).clamp_min(1)
    token = (shown.sum(2, keepdim=True) / count).detach().requires_grad_()  # equal for all that see it
    out = pooled(call, token * seen)
    (one,) = torch.autograd.grad(out, token, gradient)
    return one * seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", SMALL)
def test_every_method_explains_every_family(family, method):
    model, images = build(family)
    found = explain(model, images, method)
    assert found.shape[0] == 2
    assert bool(found.isfinite().all())
    assert float(found.std()) > 0


@pytest.mark.parametrize("family", ["NAT", "Swin", "CaiT"])
def test_maps_depend_on_the_class(family):
    model, images = build(family)
    maps = [explain(model, images, "attention-gradient", target) for target in (0, 1)]
    assert not torch.equal(*maps)


def test_small_gradients_are_not_rounded_away():
    """float32 finds the map of a model whose logits hardly change, as float64 does."""
    model, images = build("ViT")
    with torch.no_grad():
        model.head.weight *= 1e-9
    found = explain(model, images, "attention-gradient", 1).double()
    expected = explain(model.double(), images.double(), "attention-gradient", 1)
    assert float(expected.max()) > 0
    torch.testing.assert_close(found / expected.max(), expected / expected.max(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["NAT", "Swin", "SwiftFormer"])
def test_the_receptive_field_contains_its_point(family):
    model, images = build(family)
    field = receptive_field(model, images, point=(20, 10))
    assert field.shape == (2, *images.shape[2:])
    assert bool((field[:, 8:12, 18:22].sum((1, 2)) > 0).all())


def test_grad_cam_before_the_class_token_leaves():
    """After the last block of ViT, the classifier reads no patch; timm's and transformers' models alike."""
    import timm
    from transformers import ViTConfig, ViTForImageClassification

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(image_size=32, patch_size=8, num_labels=5, **sizes)
    images = torch.randn(2, 3, 32, 32)
    for model in (timm.create_model("vit_tiny_patch16_224", **small), adapt(ViTForImageClassification(config))):
        assert isinstance(cam_targets(model)[0], torch.nn.LayerNorm)
        found = explain(lively(model), images, "grad-cam", 1)
        assert found.shape == (2, 4, 4)
        assert float(found.std()) > 0
