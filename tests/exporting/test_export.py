"""Exported files agree with their models on photographs, say what they are, and fail loudly where they do not."""

import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

import regard
from models.networks import SMALL, small
from regard import DataError, ExportError, OptionError, ShapeError, UnsupportedError
from regard.exporting import Metadata, Opened, Verification, exporter, format_of, serving, verify
from regard.exporting.program import step_of
from regard.models import Preprocessing

SIDE = {"mobilevitv2_050": 64, "nat_isotropic_small": 32, "dinat_s_tiny": 32}
NAMES = [pytest.param(name, marks=() if name == "nat_nano" else pytest.mark.exhaustive) for name in SMALL]


def network(name="nat_nano"):
    torch.manual_seed(0)
    return small(name).eval()


def size_of(name):
    return SIDE.get(name, 32)


@pytest.mark.parametrize("kernels", ["standard", "regard"])
@pytest.mark.parametrize("name", NAMES)
def test_onnx_of_every_family(name, kernels, tmp_path):
    """With regard's operators, their nodes stand where standard operators were, and nothing is a stranger."""
    model = network(name)
    exported = regard.export(model, tmp_path / "a.onnx", size=size_of(name), kernels=kernels)
    assert exported.verification.passed and exported.verification.images == ("china.jpg", "flower.jpg", "random")
    made = onnx.load(tmp_path / "a.onnx")
    domains = {node.domain for node in made.graph.node}
    assert domains <= {"", "regard"} if kernels == "regard" else domains == {""}
    assert not {"NeighborhoodAttention", "WindowAttention"} & {
        node.op_type for node in made.graph.node if not node.domain
    }
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert exported.bytes <= 1.02 * weights + 600_000  # grids of constants; small models have small weights


@pytest.mark.exhaustive
def test_packed_nodes_copy_nothing(tmp_path):
    regard.export(network(), tmp_path / "a.onnx", size=32, kernels="regard")
    nodes = [node for node in onnx.load(tmp_path / "a.onnx").graph.node if node.domain == "regard"]
    assert nodes
    for node in nodes:
        assert [one.i for one in node.attribute if one.name == "packed"] == [1]
        assert node.input[0] and not node.input[1] and not node.input[2]


EXHAUSTIVE = pytest.mark.exhaustive


@pytest.mark.parametrize(
    "file", [pytest.param("a.onnx", marks=EXHAUSTIVE), "a.pt2", pytest.param("a.xml", marks=EXHAUSTIVE)]
)
def test_dynamic_batch_and_metadata(file, tmp_path):
    classifier = replace(exporter._unnamed(network()), classes=tuple("abcdefghij"))
    exported = regard.export(classifier, tmp_path / file, size=32, dynamic=["batch"])
    opened = Opened.open(tmp_path / file)
    assert opened.metadata.classes == tuple("abcdefghij")
    assert opened.metadata.preprocessing.image_size == 32 and opened.metadata.batch is None
    assert opened.metadata.versions["torch"] == torch.__version__
    assert exported.format == format_of(file) == opened.format
    for batch in (1, 3):
        x = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(opened.call(x), classifier.model(x), rtol=1e-4, atol=1e-5)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(
        {exported.file.suffix} | ({".bin"} if file == "a.xml" else set())
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["swiftformer_nano", "nat_nano"])
def test_dynamic_size(name, tmp_path):
    model = network(name)
    regard.export(model, tmp_path / "a.onnx", size=96, dynamic=["batch", "size"])
    opened = Opened.open(tmp_path / "a.onnx")
    x = torch.randn(2, 3, 128, 80)
    with torch.no_grad():
        torch.testing.assert_close(opened.call(x), model(x), rtol=1e-4, atol=1e-5)


def test_preprocessing_inside(tmp_path):
    """Pixels in, probabilities out; `regard predict` gives the classes of the model."""
    photograph = tmp_path / "a.png"
    Image.effect_noise((50, 40), 90).convert("RGB").save(photograph)
    model = network()
    regard.export(model, tmp_path / "a.onnx", size=32, preprocess=True, kernels="regard")
    opened = Opened.open(tmp_path / "a.onnx")
    pixels = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    assert opened.call(pixels).sum().item() == pytest.approx(1, abs=1e-5)
    served = regard.predict(serving.serve(str(tmp_path / "a.onnx")), [photograph, photograph], top=5, device="cpu")
    ours = replace(exporter._unnamed(model), preprocessing=replace(model.preprocessing, image_size=32))
    expected = regard.predict(ours, [photograph], top=5, device="cpu")[0]
    for one in served:
        assert [name for name, _ in one.classes] == [name for name, _ in expected.classes]
        found, wanted = ([probability for _, probability in each.classes] for each in (one, expected))
        assert found == pytest.approx(wanted, abs=2e-3)  # pixels are rounded to bytes


@pytest.mark.exhaustive
def test_a_fixed_batch_serves_any_number(tmp_path):
    model = network()
    regard.export(model, tmp_path / "a.onnx", size=32, batch=2)
    x = torch.randn(5, 3, 32, 32)
    served = serving.serve(str(tmp_path / "a.onnx")).model(x)
    with torch.no_grad():
        torch.testing.assert_close(served, model(x), rtol=1e-4, atol=1e-5)


def test_a_file_of_gray_images(tmp_path):
    """It is exported, but neither takes photographs to be verified with nor predicts their classes."""
    model, file = small("nat_nano", num_classes=2, in_chans=1).eval(), tmp_path / "a.pt2"
    assert regard.export(model, file, size=32).verification.passed
    with pytest.raises(UnsupportedError, match=r"of RGB images, got .* with in_chans=1; use its runtime"):
        serving.serve(str(file))
    for name in ("images", "int8"):
        with pytest.raises(UnsupportedError, match=f"{name} needs a model of RGB images, .* in_chans=1; leave {name}"):
            regard.export(model, file, size=32, **{name: ["a.png"]})


def test_a_changed_byte_of_a_program(tmp_path):
    """PyTorch stores checksums and does not read them: the model would answer with a wrong weight."""
    file = tmp_path / "a.pt2"
    regard.export(network(), file, size=32)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged: .* does not fit its checksum; export it again"):
        Opened.open(file)


class Saboteur:
    """Changes one constant of the written file, as a wrong exporter would."""

    def __init__(self, monkeypatch, name):
        self.name, self.write = name, exporter.write_file
        monkeypatch.setattr(exporter, "write_file", self)

    def __call__(self, program, made, metadata):
        program = self.write(program, made, metadata)
        model = onnx.load(str(made))
        [wrong] = [one for one in model.graph.initializer if one.name == self.name]
        values = numpy_helper.to_array(wrong).copy()
        values.flat[1] += 30
        wrong.CopyFrom(numpy_helper.from_array(values, wrong.name))
        onnx.save(model, str(made))
        return program


@pytest.mark.parametrize(
    ("kernels", "constant", "node"),
    [
        ("regard", "levels.1.blocks.0.attn.rpb", "NeighborhoodAttention"),
        ("standard", "levels.1.downsample.norm.weight", "LayerNormalization"),
    ],
)
def test_a_wrong_constant_is_found(kernels, constant, node, tmp_path, monkeypatch):
    Saboteur(monkeypatch, constant)
    with pytest.raises(ExportError) as caught:
        regard.export(network(), tmp_path / "a.onnx", size=32, kernels=kernels)
    message = str(caught.value)
    assert f"first difference: {node} " in message
    assert f"of module {constant.rpartition('.')[0]!r}" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx.failed"]


def test_nan_does_not_pass():
    one = Verification(("a", "b"), (0.0, float("nan")), (True, True), 1e-4)
    assert not one.passed and one.worst == 1
    assert not Verification(("a",), (0.0,), (False,), 1e-4).passed


def test_another_class_fails():
    opened = Opened("a.onnx", "onnx", None, lambda x: torch.tensor([[1.0, 1.0 + 1e-6]]))
    found = verify(opened, lambda x: torch.tensor([[1.0 + 1e-6, 1.0]]), torch.zeros(1, 3, 2, 2), ["a"])
    assert not found.passed and "another class on a" in str(found)


FRESH = """
import sys, torch, regard
from regard.attention.neighborhood import op
calls = []
kernel = op.OPERATOR.kernels["cpu"]
run = lambda *inputs: (calls.append(1), kernel.forward(*inputs))
op.OPERATOR.kernels["cpu"] = kernel.__class__(kernel.devices, run, kernel.backward, kernel.reasons)
out = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2]))
torch.save(out, sys.argv[3])
print(len(calls))
"""
PORTABLE = """
import sys, torch
sys.modules["regard"] = None  # not installed there
torch.save(torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.parametrize("portable", [False, True])
def test_pt2_in_a_fresh_process(portable, tmp_path):
    model, x = network(), torch.randn(1, 3, 32, 32)
    regard.export(model, tmp_path / "a.pt2", size=32, portable=portable)
    files = [tmp_path / name for name in ("a.pt2", "x.pt", "out.pt")]
    torch.save(x, files[1])
    command = [sys.executable, "-c", PORTABLE if portable else FRESH, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(files[2]), model(x), rtol=1e-4, atol=1e-5)
    if not portable:
        assert int(done.stdout) > 0  # the fused kernel ran


@pytest.mark.parametrize(
    ("file", "options", "error", "message"),
    [
        ("a.xyz", {}, OptionError, "did you mean '.xml'"),
        ("none/a.onnx", {}, DataError, "expected a file that can be written"),
        ("a.onnx", {"dynamic": ["depth"]}, OptionError, "unknown dynamic axis 'depth'"),
        ("a.onnx", {"kernels": "fast"}, OptionError, "unknown kernels 'fast'"),
        ("a.pt2", {"kernels": "regard"}, UnsupportedError, "for ONNX Runtime and OpenVINO"),
        ("a.onnx", {"portable": True}, OptionError, "leave it out"),
        ("a.onnx", {"batch": 0}, ShapeError, "batch must be at least 1"),
        ("a.onnx", {"images": ["missing.png"]}, DataError, "missing.png"),
        ("a.onnx", {"batch": 2.5}, OptionError, "batch must be a whole number, got 2.5"),
        ("a.onnx", {"size": "16"}, OptionError, "size must be a whole number, got '16'"),
        ("a.onnx", {"dynamic": ["size"]}, ShapeError, "at least 64, got 32"),
        ("a.onnx", {"size": 0}, ShapeError, "size must be at least 1, got 0"),
    ],
)
def test_errors_before_the_long_work(file, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporter, "make_program", lambda *a, **o: pytest.fail("the long work has begun"))
    with pytest.raises(error, match=message):
        regard.export(network(), file, **{"size": 32, **options})
    assert list(tmp_path.iterdir()) == []


def test_sizes_and_modes(tmp_path):
    vit = small("deit_tiny_distilled_patch16_224").eval()
    with pytest.raises(ShapeError, match="multiples of"):
        regard.export(vit, tmp_path / "a.onnx", size=33)
    with pytest.raises(ShapeError, match="dynamic size must be a multiple of"):
        regard.export(vit, tmp_path / "a.onnx", size=33, dynamic=["size"])
    with pytest.raises(OptionError, match="evaluation mode"):
        regard.export(network().train(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


class Returns(nn.Module):
    """Returns what a function makes of the logits."""

    def __init__(self, change):
        super().__init__()
        self.model, self.change = network(), change

    def forward(self, x):
        return self.change(self.model(x))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("nat_nano", OptionError, "expected a model or a classifier, got str"),
        (network().half(), OptionError, "expected weights in float32 on the CPU, got torch.float16"),
        (Returns(lambda y: (y, y)), UnsupportedError, "returns logits .*, got tuple"),
        (Returns(lambda y: y[:, :, None]), UnsupportedError, r"returns logits .*, got \[1, 10, 1\]"),
        (Returns(lambda y: y / 0), UnsupportedError, "returns NaN or infinity"),
        (Returns(lambda y: y if float(y.sum()) > 0 else -y), UnsupportedError, "cannot trace the model"),
        (replace(exporter._unnamed(network()), classes=("cat", "dog")), OptionError, "the 10 classes, got 2 names"),
    ],
    ids=["name", "half", "tuple", "rank", "infinity", "branch", "classes"],
)
def test_models_that_no_file_can_hold(model, error, message, tmp_path):
    if isinstance(model, Returns):
        model.eval()
    with pytest.raises(error, match=message):
        regard.export(model, tmp_path / "a.pt2", size=32)
    assert list(tmp_path.iterdir()) == []


def opened_as(call, batch):
    metadata = Metadata("a", "b", (), Preprocessing(2), batch=batch)
    return Opened(None, "onnx", metadata, call)


def test_verification_looks_at_every_row_and_every_length():
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    right = lambda x: x.flatten(1)[:, :4]  # noqa: E731
    wrong_row = lambda x: right(x) * torch.tensor([1.0, 1.1])[:, None]  # noqa: E731
    assert verify(opened_as(right, 2), right, x, ["a", "b"]).passed
    assert verify(opened_as(wrong_row, 2), right, x, ["a", "b"]).differences == pytest.approx((0.1, 0.1))
    fixed = lambda x: right(x)[:1].expand(len(x), -1)  # noqa: E731
    found = verify(opened_as(fixed, None), right, x, ["a", "b"], others={"another batch": x})
    assert found.images == ("a", "b", "another batch") and found.differences[:2] == (0, 0) and not found.passed


def test_a_call_that_fails_is_a_disagreement():
    def call(x):
        if len(x) > 1:
            raise ValueError("index 8 is out of range")
        return torch.zeros(len(x), 3)

    found = verify(
        opened_as(call, None), call, torch.zeros(1, 3, 2, 2), ["a"], others={"another size": torch.zeros(1, 3)}
    )
    assert found.passed
    zeros = lambda x: torch.zeros(len(x), 3)  # noqa: E731
    found = verify(
        opened_as(call, None), zeros, torch.zeros(1, 3, 2, 2), ["a"], others={"another batch": torch.zeros(2, 3)}
    )
    assert not found.passed and "the call with another batch fails (index 8 is out of range)" in str(found)


@pytest.mark.exhaustive
def test_a_size_that_the_model_fixes_without_a_word(tmp_path):
    """The layer pads grids that are no multiples of its window, and the program has no branch for that."""
    layer = regard.WindowAttention(8, 2, 7)
    model = Returns(lambda x: x)
    model.model = nn.ModuleList([nn.Conv2d(3, 8, 8, 8), layer])
    model.forward = lambda x: layer(model.model[0](x).permute(0, 2, 3, 1)).mean((1, 2))
    with pytest.raises((ExportError, UnsupportedError), match="size"):
        regard.export(model.eval(), tmp_path / "a.onnx", size=224, dynamic=["size"])


def test_equal_zeros_agree():
    zeros = lambda x: torch.zeros(len(x), 3)  # noqa: E731
    assert verify(opened_as(zeros, None), zeros, torch.zeros(1, 3, 2, 2), ["a"]).differences == (0,)


def test_endings_in_capitals(tmp_path):
    assert regard.export(network(), tmp_path / "a.PT2", size=32).file.is_file()


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "a.onnx").write_text("not a model")
    (tmp_path / "a.pt2").write_text("not a model")
    for name in ("a.onnx", "a.pt2", "b.onnx"):
        with pytest.raises(DataError, match="expected an exported model"):
            Opened.open(tmp_path / name)


@pytest.mark.exhaustive
def test_other_models_of_pytorch(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    exported = regard.export(model, tmp_path / "a.onnx", size=16)
    assert exported.verification.passed and step_of(model) == 32


def test_metadata_is_json():
    one = Metadata("a", "b", ("c",), Preprocessing(32), dynamic=("batch",), batch=None)
    assert Metadata.loads(one.dumps()) == one
    assert json.loads(one.dumps())["classes"] == ["c"]
