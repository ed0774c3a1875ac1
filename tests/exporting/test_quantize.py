"""Files in int8 are smaller and keep the classes; where they would not, the export fails and says so."""

import json

import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regard
from models.networks import small
from regard import DataError, ExportError, UnsupportedError
from regard.cli import app
from regard.exporting import Opened, Quantized, quantize
from regard.exporting.serving import serve
from regard.training import Classifier, TrainConfig, evaluate, train
from regard.training.data import load, open_source

SETTINGS = {"image_size": 8, "epochs": 4, "batch_size": 32, "hflip": 0.0, "min_scale": 0.9, "lr": 3e-3, "workers": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that knows digits, and a folder of digits from its training."""
    root = tmp_path_factory.mktemp("digits")
    run = train(TrainConfig(model="nat_nano", data="digits", out=root / "run", device="cpu", **SETTINGS))
    source = open_source("digits")
    for place, (image, label) in enumerate(source.train[:150]):
        folder = root / "images" / source.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        load(image).save(folder / f"{place}.png")
    return Classifier.open(run), root / "images"


@pytest.mark.parametrize("file", ["a.onnx", pytest.param("a.xml", marks=pytest.mark.exhaustive)])
def test_accuracy_before_and_after(file, trained, tmp_path):
    if file == "a.xml":
        pytest.importorskip("nncf", reason="needs regard[quantize]")
    classifier, images = trained
    before = regard.export(classifier, tmp_path / file, dynamic=["batch"])
    after = regard.export(classifier, tmp_path / f"int8_{file}", dynamic=["batch"], int8=[images])
    assert after.bytes < 0.5 * before.bytes
    found = after.verification
    assert isinstance(found, Quantized) and found.passed and found.calibration == 120 and len(found.images) == 30
    assert f"{sum(found.agree)} of 30 held-out images keep their class" in str(found)
    assert 1e-4 < max(found.differences) < 0.3
    scores = [evaluate(one, "digits", device="cpu").top1 for one in (classifier, serve(str(after.file)))]
    assert scores[0] > 0.85 and scores[1] > scores[0] - 0.02
    assert Opened.open(after.file).metadata == Opened.open(before.file).metadata
    assert sorted(tmp_path.glob("*.onnx*")) == sorted({before.file, after.file} if file == "a.onnx" else ())


def test_weights_are_bytes_and_attention_is_not(trained, tmp_path):
    """Seven bits do not saturate in the 16-bit sums of processors without VNNI."""
    classifier, images = trained
    regard.export(classifier, tmp_path / "a.onnx", int8=[images], batch=4, preprocess=True)
    graph = onnx.load(tmp_path / "a.onnx").graph
    made = {name: node for node in graph.node for name in node.output}
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers and all(made[name].op_type == "DequantizeLinear" for node in layers for name in node.input)
    weights = [stored[made[node.input[1]].input[0]] for node in layers]
    assert all(one.dtype == "int8" and abs(one.astype(int)).max() <= 64 for one in weights)
    products = [node for node in graph.node if node.op_type == "MatMul"]  # dense layers with a bias are Gemm by now
    of_attention = [
        node for node in products if not any(made[name].op_type == "DequantizeLinear" for name in node.input)
    ]
    assert len(of_attention) == 12 and len(products) < 24


def test_classes_that_change_fail(trained, tmp_path, monkeypatch):
    classifier, images = trained
    monkeypatch.setattr(quantize, "_quantize_onnx", lambda file, batches: sabotage(file))
    with pytest.raises(ExportError, match=r"held-out images keep their class .* kept as .*a.onnx.failed"):
        regard.export(classifier, tmp_path / "a.onnx", int8=[images])
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx.failed"]


def sabotage(file):
    model = onnx.load(file)
    for one in model.graph.initializer:
        values = onnx.numpy_helper.to_array(one)
        if values.ndim == 2 and values.dtype == "float32":
            one.CopyFrom(onnx.numpy_helper.from_array(-values, one.name))
    onnx.save(model, file)


@pytest.mark.parametrize(
    ("file", "options", "error", "message"),
    [
        ("a.pt2", {}, UnsupportedError, "int8 quantizes ONNX and OpenVINO files, got a pt2 file"),
        ("a.onnx", {"int8": ["few"]}, DataError, "expected at least 10 images to calibrate int8 with, got 2"),
        ("a.onnx", {"int8": ["none"]}, DataError, "none"),
    ],
)
def test_errors_before_the_work(file, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("regard.exporting.exporter.make_program", None)
    (tmp_path / "few").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "few" / f"{name}.png")
    with pytest.raises(error, match=message):
        regard.export(small("nat_nano").eval(), file, size=32, **{"int8": ["few"], **options})


def test_kernels_of_regard_stay_in_float32():
    with pytest.raises(UnsupportedError, match="int8 quantizes standard operators"):
        quantize.check_int8("onnx", "regard")


@pytest.mark.parametrize(
    ("agree", "differences", "passed"),
    [([True] * 9 + [False], [0.1] * 10, True), ([True] * 8 + [False] * 2, [0.1] * 10, False),
     ([True] * 10, [0.1] * 9 + [float("nan")], False), ([True] * 10, [0.1] * 9 + [2.0], False)],
)  # fmt: skip
def test_what_passes(agree, differences, passed):
    found = Quantized(tuple("abcdefghij"), tuple(differences), tuple(agree), quantize.MAX_DIFFERENCE)
    assert found.passed == passed


def test_notes_about_processors():
    assert quantize.processor_note(lambda: "fp asimd asimddp") == quantize.processor_note(lambda: "") == ""
    assert "no VNNI" in quantize.processor_note(lambda: "sse2 avx2")
    assert "no VNNI" in quantize.processor_note(lambda: "fp asimd")


def test_batches_are_filled_up():
    batches = list(quantize._batches(torch.arange(5.0)[:, None], 2))
    assert [one.flatten().tolist() for one in batches] == [[0, 1], [2, 3], [4, 4]]


def test_command_line(trained, tmp_path):
    classifier, images = trained
    command = ["export", classifier.name, "--out", str(tmp_path / "a.onnx"), "--int8", str(images), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verification"]["calibration"] == 120
