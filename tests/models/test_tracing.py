"""`torch.jit.trace` of every family, and fvcore, which counts operations in the traced program."""

import logging

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import fvcore_handles

from .networks import SMALL, images, small

SIZE = (16, 16)


@pytest.mark.filterwarnings("ignore")  # of the tracer, of sizes that become constants
@pytest.mark.parametrize("name", SMALL)
def test_a_traced_model_computes_the_same(name):
    model = small(name).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, images(*SIZE), check_trace=False)
        x = -images(*SIZE)
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SMALL)
def test_fvcore_counts_like_torch(name):
    """fvcore counts a multiplication and its addition once, torch twice."""
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    model, x = small(name).eval(), images(*SIZE)
    count = fvcore.FlopCountAnalysis(model, x).set_op_handle(**fvcore_handles()).total()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * count == pytest.approx(counter.get_total_flops(), rel=0.01)
