"""Packages of AOTInductor run in a fresh process without a compiler, and still call regard's kernels."""

import subprocess
import sys
import zipfile

import pytest
import torch
from torch._inductor import cpp_builder

import regard
from models.networks import small
from regard import OptionError, ShapeError, UnsupportedError
from regard.exporting import Opened, compiled

FRESH = """
import os, sys
os.environ["PATH"] = os.environ["CXX"] = ""  # no compiler
import torch, regard
from regard.attention.neighborhood import op
calls = []
kernel = op.OPERATOR.kernels["cpu"]
run = lambda *inputs: (calls.append(1), kernel.forward(*inputs))[1]
op.OPERATOR.kernels["cpu"] = kernel.__class__(kernel.devices, run, kernel.backward, kernel.reasons)
torch.nn.Module.__init__ = None  # no model is built
torch.set_grad_enabled(False)
model = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
print(len(calls))
"""


def has_compiler():
    try:
        return bool(cpp_builder.get_cpp_compiler())
    except Exception:
        return False


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    if not has_compiler():
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    model = small("nat_nano").eval()
    file = tmp_path_factory.mktemp("compiled") / "a.pt2"
    return model, regard.export(model, file, size=32, dynamic=["batch"], compile=True)


@pytest.mark.exhaustive  # compiles for a minute
def test_agrees_and_is_recognized(exported, monkeypatch):
    model, made = exported
    assert made.verification.passed and made.format == "pt2"
    opened = Opened.open(made.file)
    assert opened.metadata.model == "Nat" and opened.metadata.dynamic == ("batch",)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(opened.call(x), model(x), rtol=1e-4, atol=1e-5)
    for x in (torch.randn(1, 3, 16, 16), torch.randn(1, 3, 32, 32).double(), torch.randn(3, 32, 32)):
        with pytest.raises(ShapeError, match=r"expected images \[any, 3, 32, 32\] in torch.float32, got"):
            opened.call(x)
    monkeypatch.setattr(compiled.platform, "machine", lambda: "riscv64")
    with pytest.raises(UnsupportedError, match="expected a file compiled for riscv64"):
        Opened.open(made.file)


@pytest.mark.exhaustive
def test_fused_in_a_fresh_process_without_a_compiler(exported, tmp_path):
    model, made = exported
    x = torch.randn(2, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", FRESH, str(made.file), str(tmp_path / "x.pt"), str(tmp_path / "out.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 6  # the blocks
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "options", "error", "message"),
    [
        ("a.onnx", {}, OptionError, "compile makes .pt2 files, got onnx"),
        ("a.pt2", {"portable": True}, OptionError, "expected compile or portable, got both"),
        ("a.pt2", {"dynamic": ["size"]}, UnsupportedError, "compile fixes the size of the images"),
    ],
)
def test_errors(file, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        regard.export(small("nat_nano").eval(), tmp_path / file, size=32, compile=True, **options)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    with pytest.raises(UnsupportedError, match=r"expected a C\+\+ compiler"):
        compiled.check_compile("pt2", False, ())


@pytest.mark.parametrize(
    ("machine", "instructions", "here", "passes"),
    [
        ("", "", "AVX2", True),
        ("here", "AVX2", "AVX512", True),
        ("here", "AVX512", "AVX2", False),
        ("here", "ASIMD", "DEFAULT", True),
        ("there", "AVX2", "AVX2", False),
    ],
)
def test_processors(machine, instructions, here, passes, monkeypatch):
    monkeypatch.setattr(compiled.platform, "machine", lambda: "here")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: here)
    if passes:
        compiled._check_processor(machine, instructions)
    else:
        with pytest.raises(UnsupportedError, match="export it on this kind of processor"):
            compiled._check_processor(machine, instructions)


def test_programs_are_not_packages(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/models/model.json", "{}")
    (tmp_path / "b.pt2").write_text("no archive")
    assert not any(compiled.is_compiled(tmp_path / name) for name in ("a.pt2", "b.pt2", "gone.pt2"))
    with zipfile.ZipFile(tmp_path / "c.pt2", "w") as archive:
        archive.writestr("data/aotinductor/model/a.so", "")
    assert compiled.is_compiled(tmp_path / "c.pt2")
