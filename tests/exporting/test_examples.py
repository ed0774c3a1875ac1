"""The examples of serving an exported file run, and name the class that the model names."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import regard
from models.networks import small
from regard.training.classifier import Classifier

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = ("tench, Tinca tinca", 'a "quoted" name', *(f"class {number}" for number in range(10)))
SIDE = 32


@pytest.fixture(scope="module")
def classifier():
    """A small network whose logits differ by much."""
    torch.manual_seed(0)
    model = small("nat_isotropic_small", depth=1, num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        head.weight.mul_(30)
    preprocessing = regard.models.Preprocessing(SIDE, crop_pct=0.875)
    return Classifier("nat_isotropic_small", "random", model, preprocessing, CLASSES, {})


@pytest.fixture
def photo(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    file = tmp_path / "photo.png"
    Image.fromarray(datasets.load_sample_image("flower.jpg")).save(file)
    return file


def answer(classifier, x):
    with torch.no_grad():
        probability, best = classifier.model(x[None]).softmax(-1)[0].max(-1)
    return classifier.classes[best], probability.item()


def check(output, expected, tolerance=2e-3):
    name, probability = output.strip().rsplit(" ", 1)
    assert name == expected[0] and float(probability) == pytest.approx(expected[1], abs=tolerance)


@pytest.mark.parametrize("kernels", ["standard", "regard"])
def test_onnx(classifier, photo, kernels, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    regard.export(classifier, file, kernels=kernels, preprocess=True)
    command = [sys.executable, EXAMPLES / "serve_onnx.py", file, photo]
    program = subprocess.run(command, capture_output=True, text=True)
    assert program.returncode == 0, program.stderr
    check(program.stdout, answer(classifier, classifier.preprocessing(Image.open(photo))))


def test_python_example_does_not_import_regard():
    text = (EXAMPLES / "serve_onnx.py").read_text()
    assert "import regard" not in text and "from regard" not in text


def build(source, program):
    """Compile a C++ example with the headers and the library of OpenVINO's wheel."""
    compiler, package = shutil.which("g++") or shutil.which("clang++"), find_spec("openvino")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    if package is None:
        pytest.skip("openvino is not installed")
    folder = Path(package.origin).parent
    (library,) = (folder / "libs").glob("libopenvino.so*")
    options = ["-std=c++17", "-Wall", "-Wextra", f"-I{folder / 'include'}", f"-Wl,-rpath,{library.parent}"]
    links = [f"-Wl,-rpath-link,{library.parent}"]
    subprocess.run([compiler, *options, source, library, *links, "-o", program], check=True)


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="the wheels of other systems name their libraries differently")
def test_openvino(classifier, photo, tmp_path):
    program = tmp_path / "serve"
    build(EXAMPLES / "serve_openvino.cpp", program)
    regard.export(classifier, tmp_path / "model.xml", preprocess=True)
    image = tmp_path / "photo.ppm"
    Image.open(photo).convert("RGB").resize((SIDE, SIDE)).save(image)
    done = subprocess.run([program, tmp_path / "model.xml", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, probability = answer(classifier, squashed(classifier)(Image.open(image)))
    check(done.stdout, (name.replace('"', '\\"'), probability))

    Image.open(image).resize((SIDE, SIDE + 1)).save(image)
    done = subprocess.run([program, tmp_path / "model.xml", image], capture_output=True, text=True)
    assert done.returncode == 1 and "expected a binary PPM of the model's size" in done.stderr


def squashed(classifier):
    """Return a preprocessing that keeps all pixels of an image that has the model's size."""
    options = classifier.preprocessing
    return regard.models.Preprocessing(options.image_size, 1.0, options.mean, options.std)
