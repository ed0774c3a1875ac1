"""Run the kernels' tests with the GPU kernels, which Triton interprets on the CPU: `make test-triton`.

A pytest plugin. It puts each operator's GPU kernel in the place of its CPU kernel. Triton's interpreter runs one program
after another with NumPy: it shows wrong values and accesses, not races, and its products of bfloat16 are wrong.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from regard.attention import MECHANISMS  # noqa: E402  # Triton reads the variable when it is imported


def pytest_configure(config):
    for mechanism in MECHANISMS:
        if mechanism.operator and "cuda" in mechanism.operator.kernels:
            mechanism.operator.kernels["cpu"] = mechanism.operator.kernels["cuda"]
