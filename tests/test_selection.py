"""The parts of the exhaustive tests: each test is in exactly one, and wrong words are errors."""

import pytest

from selection import belongs, share


def test_every_test_is_in_one_part():
    names = [f"tests/a.py::test_b[{number}]" for number in range(100)]
    counts = [sum(belongs(name, (place, 4)) for place in range(4)) for name in names]
    assert set(counts) == {1}
    assert all(10 < sum(belongs(name, (place, 4)) for name in names) < 40 for place in range(4))


def test_shares():
    assert share("3/4") == (3, 4)
    for wrong in ("4/4", "1", "a/4", "1/", "-1/4"):
        with pytest.raises(ValueError, match="expected a share"):
            share(wrong)
