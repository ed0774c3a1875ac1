"""Figures say which machine they belong to, and what others took of it."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from attention.kernels import INSTRUCTION_SETS
from regard.benchmark import Machine, Steal, machine


def test_facts(monkeypatch):
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "ELEMENTS", 1000)
    found = Machine.measure(0.0)
    assert found.threads == torch.get_num_threads() and found.torch == torch.__version__
    assert found.instruction_set in (*INSTRUCTION_SETS, "none") and found.processor and found.cores >= 1
    assert found.flops > 0 and found.bytes > 0
    line = str(found)
    assert all(text in line for text in (found.processor, found.instruction_set, found.torch, "GFLOP/s", "GB/s"))
    assert set(found.columns) == {one.name for one in fields(Machine)} - {"load", "flops", "bytes"}


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


def test_a_gpu(monkeypatch):
    found = SimpleNamespace(name="NVIDIA H100", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    text = machine.gpu("cuda")
    assert text.startswith("NVIDIA H100 (compute capability 9.0, 132 multiprocessors, 80 GiB, ") and "Triton" in text


def test_stolen_time(tmp_path, monkeypatch):
    """Of 100 ticks more, 25 went to others; the last two columns, of guests, are part of the first ones."""
    monkeypatch.setattr(machine, "STAT", tmp_path / "stat")
    machine.STAT.write_text("cpu  100 0 0 300 0 0 0 7 50 50\n")
    steal = Steal()
    machine.STAT.write_text("cpu  150 0 0 325 0 0 0 32 80 80\ncpu0 1\n")
    assert steal.share() == 0.25
    machine.STAT.unlink()
    assert steal.share() is None


def test_no_stolen_time_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "STAT", tmp_path / "none")
    assert Steal().share() is None
