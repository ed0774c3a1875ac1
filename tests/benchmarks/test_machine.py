"""Benchmarks say which machine they ran on, and run the library that they are told to run."""

import pytest
import torch

import common
import machine
from attention.kernels import INSTRUCTION_SETS, needs_native
from regard.attention import native_library
from regard.native import loader


def test_facts():
    facts = machine.facts()
    assert facts["threads"] == str(torch.get_num_threads()) and facts["torch"] == torch.__version__
    assert facts["instruction_set"] in (*INSTRUCTION_SETS, "none") and facts["processor"]
    assert int(facts["cores"]) >= 1
    line = machine.described(facts, 7e10)
    assert all(facts[name] in line for name in ("processor", "instruction_set", "torch", "torch_capability"))
    assert "torch.mm 70 GFLOP/s" in line


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 1)"),
        ("model name\t: Some CPU @ 2.0 GHz\n", "Some CPU @ 2.0 GHz"),
    ],
)
def test_processor_on_linux(lines, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    machine.CPUINFO.write_text(lines)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.processor() == expected


def test_processor_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.processor()


@pytest.fixture
def defaults(monkeypatch):
    """Restore the library and the number of threads, and make the measurement of the product fast."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(loader, "NATIVE", loader.NATIVE)
    monkeypatch.setattr(common, "SIDE", 64)
    yield
    torch.set_num_threads(threads)


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_library_by_argument(name, defaults, capsys):
    common.start(common.argument_parser("a benchmark"), ["--instruction-set", name, "--threads", "1"])
    assert native_library().instruction_set == name and torch.get_num_threads() == 1
    printed = capsys.readouterr().out
    assert f"library {name};" in printed and "1 threads" in printed and "torch.mm" in printed


def test_library_of_another_processor(defaults, capsys):
    with pytest.raises(SystemExit):
        common.start(common.argument_parser("a benchmark"), ["--instruction-set", "pdp11"])
    assert f"choose one of {', '.join(INSTRUCTION_SETS)}" in capsys.readouterr().err
