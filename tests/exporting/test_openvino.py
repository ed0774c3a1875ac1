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

openvino = pytest.importorskip("openvino", reason="needs regard[export]")
pytest.importorskip("onnxruntime", reason="`one_node` needs regard[export]")

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


def run_node(name, shapes, attributes):
    inputs = [np.ones(shape, np.float32) for shape in shapes]
    parameters = [openvino.opset13.parameter([-1] * one.ndim, np.float32) for one in inputs]
    made = CLASSES[name]([one.output(0) for one in parameters], attributes)
    return openvino.compile_model(openvino.Model(made.outputs(), parameters, "one"), "CPU")(inputs)


TOKENS = (1, 6, 6, 2, 4)
PLAIN = {"kernel_size": [3, 3], "dilation": [1, 1], "stride": [1, 1], "is_causal": [0, 0], "scale": 1.0}


@pytest.mark.parametrize(
    ("name", "shapes", "attributes"),
    [
        ("NeighborhoodAttention", [TOKENS] * 3, {**PLAIN, "kernel_size": [63, 63]}),
        ("NeighborhoodAttention", [TOKENS] * 3, {**PLAIN, "kernel_size": [-3, 3]}),
        ("NeighborhoodAttention", [TOKENS] * 3, {**PLAIN, "kernel_size": [3]}),
        ("NeighborhoodAttention", [TOKENS, (1, 1, 1, 2, 4), TOKENS], PLAIN),
        ("NeighborhoodAttention", [TOKENS, TOKENS, (1, 6, 6, 3, 4)], PLAIN),
        ("NeighborhoodAttention", [TOKENS] * 3 + [(2, 2, 2)], PLAIN),
        (
            "WindowAttention",
            [TOKENS, (1, 3, 3, 2, 4), TOKENS],
            {"window_size": [3, 3], "shift_size": [0, 0], "scale": 1.0},
        ),
        ("AdditiveAttention", [TOKENS, TOKENS, (2, 3), (2, 8)], {"scale": 1.0}),
        ("EfficientAdditiveAttention", [(1, 6, 6, 8)] * 2 + [(3,)], {"token_norm": 0, "scale": 1.0}),
        ("TalkingHeadsAttention", [(1, 6, 2, 4)] * 3 + [(1, 1), (2, 2)], {"scale": 1.0}),
        ("SeparableAttention", [(1, 6, 6, 1), (1, 6, 6, 4), (1, 6, 6, 4)], {"patch_size": [4, 4]}),
    ],
)
def test_wrong_nodes_are_errors(name, shapes, attributes):
    with pytest.raises(RuntimeError):
        run_node(name, shapes, attributes)


def test_a_failed_file_keeps_its_weights(tmp_path):
    with pytest.raises(regard.ExportError, match="does not agree"):
        regard.export(small("nat_nano").eval(), tmp_path / "a.xml", size=32, tolerance=-1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin.failed", "a.xml.failed"]


def test_weights_that_cannot_be_written(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(regard.DataError, match=r"got the folder .*a\.bin"):
        regard.export(small("nat_nano").eval(), tmp_path / "a.xml", size=32)


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
