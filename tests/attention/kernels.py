"""Marks and functions for the tests of the CPU kernels."""

from functools import partial

import pytest

from regard.attention import neighborhood_attention, window_attention
from regard.native import loader

NATIVE = loader.NATIVE
INSTRUCTION_SETS = loader.instruction_sets()
needs_native = pytest.mark.skipif(NATIVE.library is None, reason=f"no kernels in this install: {NATIVE.problem}")

LOCAL = {
    "neighborhood": partial(neighborhood_attention, kernel_size=3),
    "window": partial(window_attention, window_size=3, shift_size=1),
}
local = pytest.mark.parametrize("attention", LOCAL.values(), ids=LOCAL)
