"""Files for phones, as far as they can be checked here: ExecuTorch runs, and CoreML converts."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regard
from models.networks import small
from regard import MissingDependencyError, UnsupportedError
from regard.cli import app
from regard.exporting import Opened, make_program, mobile
from regard.models import create_model

SHARED = {"swiftformer_nano": 32, "cait_xxs24_224": 16}


def executorch():
    pytest.importorskip("executorch.exir", reason="needs regard[mobile]")


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")  # of the packages that ExecuTorch imports
@pytest.mark.parametrize("name", ["swiftformer_xs", "mobilevitv2_050"])
def test_executorch_agrees_on_photographs(name, tmp_path):
    executorch()
    model = create_model(name).eval()
    made = regard.export(model, tmp_path / "a.pte")
    assert made.verification.passed and made.verification.images == ("china.jpg", "flower.jpg", "random")
    assert made.bytes < 1.02 * sum(one.nbytes for one in model.state_dict().values()) + 100_000  # the program
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    done = CliRunner().invoke(app, ["predict", str(made.file), str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SHARED)
def test_executorch_metadata(name, tmp_path):
    executorch()
    regard.export(small(name).eval(), tmp_path / "a.pte", size=SHARED[name], batch=2, preprocess=True)
    found = Opened.open(tmp_path / "a.pte").metadata
    assert found.batch == 2 and found.is_preprocessed and found.preprocessing.image_size == SHARED[name]
    assert "executorch" in found.versions


def test_executorch_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'regard\[mobile\]'"):
        regard.export(small("nat_nano").eval(), tmp_path / "a.pte", size=32)


def test_executorch_has_no_dynamic_axes(monkeypatch):
    monkeypatch.setattr(mobile, "require", lambda *names: None)
    with pytest.raises(UnsupportedError, match="fixed axes, got dynamic batch"):
        mobile.check_executorch(["batch"])


@pytest.mark.parametrize("has_affine", [True, False])
def test_group_norm(has_affine):
    x, weight, bias = torch.randn(2, 6, 3, 5), torch.randn(6), torch.randn(6)
    given = (x, 3, weight if has_affine else None, bias if has_affine else None, 1e-5)
    torch.testing.assert_close(mobile._group_norm(*given), torch.nn.functional.group_norm(*given))


def test_errors_of_the_runtime(monkeypatch, tmp_path):
    class Program:
        method_names = ("forward",)

        def load_method(self, name):
            return self

        def execute(self, inputs):
            raise RuntimeError("error 0x12")

    class Runtime:
        def get(self):
            return self

        def load_program(self, content):
            return Program()

    monkeypatch.setattr(mobile, "require", lambda *names: SimpleNamespace(Runtime=Runtime()))
    (tmp_path / "a.pte").touch()
    metadata, call = mobile.open_executorch(tmp_path / "a.pte")
    assert metadata is None
    with pytest.raises(UnsupportedError, match=r"cannot run 'a.pte' on \[1, 3, 8, 8\] .*0x12"):
        call(torch.zeros(1, 3, 8, 8))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")
def test_coreml_converts(tmp_path):
    """Only a Mac can run the result. MobileViTv2 unfolds patches to six axes, and CoreML has five."""
    tools = pytest.importorskip("coremltools", reason="needs regard[mobile]")
    program = make_program(create_model("swiftformer_xs").eval(), torch.randn(1, 3, 224, 224)).run_decompositions()
    made = tools.convert(
        program, minimum_deployment_target=tools.target.iOS17, compute_precision=tools.precision.FLOAT32
    )
    made.save(str(tmp_path / "a.mlpackage"))
    assert (tmp_path / "a.mlpackage" / "Manifest.json").is_file()
