"""NATTEN's switches and its FLOP counter."""

import sys
import types

import pytest
import torch
from torch import nn

from memory import memory_of_nans
from regard.compat import natten
from regard.compat.natten import _switches
from regard.compat.natten.flops import get_flops
from regard.errors import MissingDependencyError

YES = ("has_fna", "has_fused_na", "has_half", "has_bfloat", "is_fna_enabled", "is_fused_na_enabled")
ANSWERS = [name for name in _switches.__all__ if name.startswith(("has_", "is_"))]
SWITCHES = [
    name for name in _switches.__all__ if name.startswith(("use_", "enable_", "disable_", "set_", "allow_", "force_"))
]


def test_answers():
    """The capability queries that code for 0.17 and 0.20 makes before it calls the fused functions."""
    assert natten.HAS_LIBNATTEN is True and natten.get_memory_usage_preference() == "default"
    for name in ANSWERS:
        expected = torch.cuda.is_available() if name == "has_cuda" else name in (*YES, "is_memory_usage_default")
        assert getattr(natten, name)() is expected, name
    for name in ("has_half", "has_bfloat", "has_gemm", "has_fna", "has_fp64_gemm"):
        assert getattr(natten, name)(0) is (name in YES)  # takes a device


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_change_nothing(name):
    before = [getattr(natten, answer)() for answer in ANSWERS]
    for arguments in ((), (True,), (False,)):
        getattr(natten, name)(*arguments)
    assert [getattr(natten, answer)() for answer in ANSWERS] == before


def test_names_of_switches():
    """All switches of NATTEN 0.15 to 0.21 exist, apart from kernel configurations."""
    others = {"HAS_LIBNATTEN", "are_deterministic_algorithms_enabled", "get_memory_usage_preference"}
    assert {*ANSWERS, *SWITCHES, *others} == set(_switches.__all__) <= set(natten.__all__)
    assert {"use_autotuner", "use_kv_parallelism_in_fused_na", "disable_tf32", "force_flex_attention"} <= set(SWITCHES)
    natten.use_fused_na(True, kv_parallel=True)
    natten.use_autotuner(forward_pass=True, backward_pass=False)
    natten.set_memory_usage_preference("unrestricted")
    with memory_of_nans():
        assert natten.are_deterministic_algorithms_enabled()


def test_get_flops(monkeypatch):
    class FlopCountAnalysis:
        silent = False

        def __init__(self, model, inputs):
            self.model, self.inputs = model, inputs

        def unsupported_ops_warnings(self, enabled):
            self.silent = not enabled
            return self

        def total(self):
            return self.model.weight.numel() * len(self.inputs) + 1000 * self.silent

    fvcore = types.ModuleType("fvcore.nn")
    fvcore.FlopCountAnalysis = FlopCountAnalysis
    monkeypatch.setitem(sys.modules, "fvcore.nn", fvcore)
    assert get_flops(nn.Linear(2, 3), torch.ones(5, 2)) == 30
    assert get_flops(nn.Linear(2, 3), torch.ones(5, 2), disable_warnings=True) == 1030
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    with pytest.raises(MissingDependencyError, match="pip install fvcore"):
        get_flops(nn.Linear(2, 3), torch.ones(5, 2))
