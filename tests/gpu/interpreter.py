"""Run the kernels' tests with the GPU kernels, which Triton interprets on the CPU: `make test-triton`.

A pytest plugin. It puts each operator's GPU kernel in the place of its CPU kernel. Triton's interpreter runs one
program after another with NumPy: it shows wrong values and accesses, not races, and its products of bfloat16 are wrong.
"""

import os

import numpy

os.environ["TRITON_INTERPRET"] = "1"

from regard.attention import MECHANISMS  # Triton reads the variable when it is imported
from regard.attention.neighborhood import gpu_plan as neighborhood
from regard.attention.talking_heads import gpu as talking_heads


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
