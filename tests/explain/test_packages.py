"""pytorch-grad-cam and Captum, which regard does not require, on the layers that regard names for them."""

import re
from pathlib import Path

import pytest
import torch

import regard
from explain.networks import build, lively
from regard.explain import cam_targets, explain, reshape_transform, resize

FAMILIES = ["Swin", "NAT", "SwiftFormer", "CaiT", "ViT", "MobileViTv2", "timm's Swin"]


def network(family):
    if family != "timm's Swin":
        return build(family)
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **sizes)
    return lively(model), torch.randn(2, 3, 56, 56)


def scaled(maps):
    """pytorch-grad-cam's normalization: from 0 to 1 in every image."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (1e-7 + maps.amax((1, 2), keepdim=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_cam_of_the_package(family):
    package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = network(family)
    size = tuple(images.shape[2:])
    with package.GradCAM(model, cam_targets(model), reshape_transform=reshape_transform(model, size)) as cam:
        found = cam(images, [ClassifierOutputTarget(2)] * len(images))
    expected = scaled(resize(scaled(explain(model, images, "grad-cam", 2)), size))
    assert float(expected.std()) > 0
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_captum(family):
    """Layer attributions have the layout of the layer, and `reshape_transform` turns them into images."""
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, images = network(family)
    size, (layer,) = tuple(images.shape[2:]), cam_targets(model)
    products = captum.LayerGradientXActivation(model, layer).attribute(images, target=2)
    maps = reshape_transform(model, size)(products).sum(1, keepdim=True)
    assert maps.shape[2:] == explain(model, images, "grad-cam", 2).shape[1:]
    assert captum.LayerAttribution.interpolate(maps, size).shape == (len(images), 1, *size)
    assert captum.IntegratedGradients(model).attribute(images, target=2, n_steps=8).shape == images.shape
    if family in ("SwiftFormer", "MobileViTv2"):  # Captum takes the second axis for the channels
        found = captum.LayerGradCam(model, layer).attribute(images, target=2, relu_attributions=True)
        expected = explain(model, images, "grad-cam", 2).unsqueeze(1)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # of the packages and the tracer
def test_the_guide():
    """The examples of the guide run one after the other."""
    for package in ("pytorch_grad_cam", "captum", "fvcore"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    guide = Path(__file__).parents[2] / "docs" / "guides" / "look.md"
    examples = re.findall(r"^```py\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    model, images = build("NAT")
    names = {"model": model, "images": images, "torch": torch, "explain": regard.explain}
    for example in examples:
        exec(example, names)  # the guide's own text
    assert names["pixels"].shape == images.shape
    assert names["heat"].shape == (2, 1, 32, 32)
