"""regard's operators in OpenVINO compute what its functions compute, in files and out of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import regard
from attention.kernels import needs_native
from models.networks import SMALL, small
from regard.attention import MECHANISMS
from regard.exporting import Opened, openvino_operators

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")  # of `one_node`

from .one_node import NAMES, node_of  # noqa: E402

pytestmark = needs_native
SAMPLES = [
    pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}")
    for mechanism in MECHANISMS
    if mechanism.name in NAMES
    for sample in mechanism.samples
]
NETWORKS = [pytest.param(name, marks=() if name == "nat_nano" else pytest.mark.exhaustive) for name in SMALL]
CLASSES = {operator.__name__: operator for operator in openvino_operators()}


@pytest.mark.one_parameter
@pytest.mark.parametrize(("mechanism", "sample"), SAMPLES)
def test_samples_have_the_kernels_bits(mechanism, sample):
    arguments = mechanism.prepare(**sample.tensors(), **sample.options)[0]
    node = node_of(mechanism.name, arguments)
    inputs = [np.ascontiguousarray(one) for one in node.inputs if one is not None]
    parameters = [openvino.opset13.parameter([-1] * one.ndim, np.float32) for one in inputs]
    attributes = {name: value for name, value in node.attributes.items() if name != "packed"}
    attributes = {key: list(one) if isinstance(one, tuple) else one for key, one in attributes.items()}
    made = CLASSES[node.name]([one.output(0) for one in parameters], attributes)
    model = openvino.Model(made.outputs(), parameters, "one")
    got = openvino.compile_model(model, "CPU")(inputs)
    expected = mechanism.operator(*(value for name, value in arguments._asdict().items() if name != "dropout_p"))
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    assert len(got) == node.outputs
    for place in range(node.outputs):
        assert np.array_equal(got[place].ravel(), expected[place].numpy().ravel())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    model = small(name).eval()
    side = 64 if name == "mobilevitv2_050" else 32
    exported = regard.export(model, tmp_path / "a.xml", size=side, dynamic=["batch"], kernels="regard")
    assert exported.verification.passed
    text = Path(exported.file).read_text()
    has_operators = any(f'type="{one}"' in text for one in CLASSES)
    assert has_operators == (name not in ("vit", "deit_tiny_distilled_patch16_224"))
    assert Opened.open(exported.file).metadata.kernels == "regard"
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(Opened.open(exported.file).call(x), model(x), rtol=1e-4, atol=1e-5)


def test_another_runtime_says_what_is_missing(tmp_path):
    """Without the classes, a reader names the operator."""
    regard.export(small("nat_nano").eval(), tmp_path / "a.xml", size=32, kernels="regard")
    with pytest.raises(RuntimeError, match="NeighborhoodAttention"):
        openvino.Core().read_model(str(tmp_path / "a.xml"))
