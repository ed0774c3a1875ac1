"""Run the kernels' tests with the GPU kernels, which Triton interprets on the CPU: `make test-triton`.

A pytest plugin. It puts each operator's GPU kernel in the place of its CPU kernel, and keeps the fused calls of the
contract. Triton's interpreter runs one program after another with NumPy: it shows wrong values and accesses, not races,
and its products of bfloat16 are wrong, so that calls in bfloat16 are left to GPUs.
"""

import os

import numpy
import torch

os.environ["TRITON_INTERPRET"] = "1"

from regard.attention import MECHANISMS  # Triton reads the variable when it is imported
from regard.attention.neighborhood import gpu_plan as neighborhood
from regard.attention.talking_heads import gpu as talking_heads

OTHERS = ("test_threads", "test_autocast")  # of the CPU's threads; in bfloat16


def pytest_collection_modifyitems(config, items):
    left = [item for item in items if not runs_kernels(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def runs_kernels(item):
    """Whether a test runs a kernel that the interpreter can."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    is_fused = parameters.get("backend") == "fused" and item.originalname not in OTHERS
    is_fused = is_fused and parameters.get("dtype") not in (torch.bfloat16, torch.float64)
    return is_fused or item.path.name == "test_interpreted.py"


def pytest_configure(config):
    numpy.seterr(all="ignore")  # a GPU does not warn of infinities and NaNs
    for mechanism in MECHANISMS:
        if mechanism.operator and "cuda" in mechanism.operator.kernels:
            mechanism.operator.kernels["cpu"] = mechanism.operator.kernels["cuda"]
    # An operation takes as long on a small tile as on a large one. And NumPy rounds products of other shapes
    # differently, which gradients of logits of 10,000 would show.
    own_tiles = talking_heads.choose_tiles
    talking_heads.choose_tiles = lambda *call: own_tiles(*call)._replace(own=32, other=32)
    neighborhood.forward_tiles = neighborhood.backward_tiles = lambda *_: neighborhood.Tiles(32, 32, 4, 1)
