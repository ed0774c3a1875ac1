"""The measurement of mechanisms: operations are exact, growth is fitted right, wrong results are not timed."""

import pytest
import torch

from regard import MECHANISMS, OptionError, ShapeError
from regard.benchmark import (
    SUBJECTS,
    Size,
    Times,
    exponent,
    measure,
    measure_growth,
    memory,
    peak_memory,
    select,
    time_in_turn,
)
from regard.benchmark import growth as growth_module
from regard.benchmark import mechanisms as subject_module

TINY = Size((4, 6), 8, 2)
GRID = Size((7, 14), 8, 2)  # two windows


def test_every_mechanism_is_measured():
    assert [subject.name for subject in SUBJECTS] == [mechanism.name for mechanism in MECHANISMS]


@pytest.mark.parametrize("name", [subject.name for subject in SUBJECTS])
def test_operations_are_those_of_a_count_by_hand(name):
    """Multiply-adds of the projections and of every pair of query and key; scores and sums of contexts are small."""
    [one] = measure(GRID, [name], seconds=0.0, training=False)
    tokens, dim, heads = GRID.tokens, GRID.dim, GRID.heads
    keys = {"softmax": tokens, "talking_heads": tokens, "window": 49, "neighborhood": 49}.get(name, 0)
    weights = {"additive": 3, "efficient_additive": 4, "separable": 3}.get(name, 4) * dim**2
    mixes = 2 * heads**2 if name == "talking_heads" else 0
    small = tokens * dim * 16 if name in ("additive", "efficient_additive", "separable") else 0  # and padded rows
    expected = tokens * weights + tokens * keys * (2 * dim + mixes)
    assert expected <= one.flops / 2 <= expected + small


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_exponents(power):
    found = {tokens: 1e-6 * tokens**power for tokens in (16, 64, 256, 1024)}
    assert exponent(found) == pytest.approx(power, abs=1e-5)
    with pytest.raises(OptionError, match="at least two sizes"):
        exponent({16: 1.0})


def test_growth_is_that_of_the_larger_sizes(monkeypatch):
    """The rounds of a machine that slows down: the exponent stays."""

    def timed(calls, seconds):
        assert list(calls) == ["64", "256"]  # of three sizes, the larger two
        rounds = [1.0, 3.0, 1.0]
        return {name: Times(tuple(slow * int(name) ** 2 for slow in rounds)) for name in calls}

    monkeypatch.setattr(growth_module, "time_in_turn", timed)
    sizes = [Size(grid, 8, 2) for grid in ((16, 16), (4, 4), (8, 8), (32, 8))]  # two of 256 tokens
    assert measure_growth(select(["separable"])[0], sizes, 1.0) == pytest.approx(2.0, abs=1e-5)


def test_times():
    times = Times((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (times.median, times.quartiles) == (3.0, (2.0, 4.0))
    assert times.is_noisy
    assert not Times((1.0, 1.01, 1.02)).is_noisy


def test_ratios_are_those_of_the_rounds():
    """A slow round of the machine slows both, and leaves the ratio as it is."""
    assert Times((2.0, 20.0, 2.0)).ratio_to(Times((1.0, 10.0, 1.0))) == 2.0


def test_calls_take_turns():
    order = []
    time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0)
    assert "".join(order) == "aabb" * 5


def test_memory_of_a_tensor():
    found = peak_memory(lambda: torch.ones(8_000_000))
    assert found is None or 31e6 < found < 40e6


def test_memory_where_the_system_does_not_tell(tmp_path, monkeypatch):
    """No such file, or a status without the figure; the call's own errors are not hidden."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "FORGET", tmp_path / "forget")
    assert peak_memory(lambda: None) is None
    memory.STATUS.write_text("VmRSS:\t 12 kB\n")
    assert peak_memory(lambda: None) is None
    with pytest.raises(OSError, match="the call's"):
        peak_memory(raise_error)


def raise_error():
    raise OSError("the call's")


def test_wrong_results_are_not_timed(monkeypatch):
    class Wrong(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    wrong = subject_module.Subject("window", lambda size: Wrong(), "", "")
    monkeypatch.setattr(subject_module, "SUBJECTS", (wrong,))
    with pytest.raises(ArithmeticError, match="window: the fused result differs"):
        list(measure(TINY))


def test_errors():
    with pytest.raises(OptionError, match="did you mean 'window'"):
        select(["windows"])
    with pytest.raises(ShapeError, match="divisible by heads"):
        Size((4, 4), 7, 2)
    with pytest.raises(ShapeError, match="at least 1"):
        Size((0, 4), 8, 2)
    with pytest.raises(ShapeError, match=r"got \(0, 4x4, 8\), 1 head$"):
        Size((4, 4), 8, 1, 0)
