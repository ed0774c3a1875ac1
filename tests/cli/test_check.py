"""`regard check`: what this install can do."""

import os

import pytest
import torch

from regard.attention import MECHANISMS
from regard.native.loader import NATIVE

from .test_cli import call


def test_check():
    printed = call("check").stdout
    assert all(f"\n{mechanism.name}\tcpu\t" in printed for mechanism in MECHANISMS)
    assert torch.__version__ in printed and "timm" in printed and "missing" not in printed
    assert (NATIVE.instruction_set or NATIVE.problem[:20]) in printed


@pytest.mark.parametrize(("load", "threads", "advises"), [(9.5, 2, True), (9.5, 1, False), (0.2, 2, False)])
def test_check_says_when_other_programs_use_the_cores(load, threads, advises, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    (row,) = (line for line in call("check").stdout.splitlines() if line.startswith("cores\t"))
    assert row.startswith(f"cores\t2, load {load}") and ("GOMP_SPINCOUNT=1000" in row) == advises


def test_check_shows_why_calls_are_not_fused():
    tables = call("check").stdout.split("\n\n")
    rows = [line.split("\t") for line in tables[2].splitlines()]
    assert rows[0] == ["mechanism", "device", "reason", "calls"]
    shown = {(name, reason): calls for name, device, reason, calls in rows[1:] if device == "cpu"}
    expected = {}
    for mechanism in MECHANISMS:
        for sample in mechanism.samples:
            for reason in mechanism.unsupported_reasons(**sample.tensors(), **sample.options):
                expected.setdefault((mechanism.name, " ".join(reason.split())), []).append(sample.name)
    count = {mechanism.name: len(mechanism.samples) for mechanism in MECHANISMS}
    names = {key: "all" if len(calls) == count[key[0]] else ", ".join(calls) for key, calls in expected.items()}
    assert names and shown == names


def test_check_notices_a_broken_reference(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    mechanism = MECHANISMS[0]
    fields = {name: getattr(mechanism, name) for name in mechanism.__dataclass_fields__}
    monkeypatch.setattr("regard.cli.check.MECHANISMS", (type(mechanism)(**{**fields, "function": broken}),))
    assert "broken on purpose" in call("check", code=1).stdout
