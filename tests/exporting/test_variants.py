"""The published variants agree with their ONNX files on photographs, and the files are as large as the weights."""

import pytest

import regard
from regard.models import MODELS, create_model

pytest.importorskip("onnxruntime", reason="needs regard[export]")
NAMES = (
    *(name for name in MODELS if name.startswith(("swiftformer", "mobilevitv2")) and name != "swiftformer_nano"),
    "cait_xxs24_224",
    "nat_mini",
    "dinat_mini",
    "dinat_s_tiny",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_agreement_and_size(name, tmp_path):
    model = create_model(name).eval()
    exported = regard.export(model, tmp_path / "a.onnx")
    assert exported.verification.passed and exported.verification.images == ("china.jpg", "flower.jpg", "random")
    weights = sum(one.nbytes for one in model.state_dict().values())
    assert exported.bytes <= 1.02 * weights


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mobilevitv2_050", "swiftformer_xs"])
def test_size_of_programs(name, tmp_path):
    """The smallest networks, whose graphs are the largest part of a file."""
    model = create_model(name).eval()
    exported = regard.export(model, tmp_path / "a.pt2")
    assert exported.verification.passed
    assert exported.bytes <= 1.02 * sum(one.nbytes for one in model.state_dict().values())


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [64, 128, 192, 320])
def test_mobilevitv2_at_multiples_of_64(size, tmp_path):
    assert regard.export(create_model("mobilevitv2_050").eval(), tmp_path / "a.onnx", size=size).verification.passed
