"""Run the kernels' tests with the GPU kernels, which Triton interprets on the CPU: `make test-triton`.

A pytest plugin. It puts each operator's GPU kernel in the place of its CPU kernel, and keeps the fused calls of the
contract. Triton's interpreter runs one program after another with NumPy. Here it computes in bfloat16 as GPUs do
(interpreter_bfloat16.py), and launches fail that would race on a GPU (interpreter_memory.py).
"""

import os
from types import SimpleNamespace

import numpy
import torch

os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

import triton.language as tl
from triton.runtime import interpreter

from gpu.interpreter_bfloat16 import correct_bfloat16
from gpu.interpreter_memory import watch_memory
from regard.attention import MECHANISMS
from regard.attention.neighborhood import gpu_plan as neighborhood
from regard.attention.talking_heads import gpu as talking_heads

CPU_ONLY = ("test_threads", "test_autocast", "test_autocast_of_different_dtypes")  # about threads and autocast of CPUs
KERNEL_FILES = ("test_interpreted.py", "test_interpreter.py", "test_kernel_nonfinite.py")  # every test runs kernels


def pytest_collection_modifyitems(config, items):
    left = [item for item in items if not runs_kernels(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def runs_kernels(item):
    """Whether a test runs a kernel."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    is_fused = parameters.get("backend") == "fused" and item.originalname not in CPU_ONLY
    return (is_fused or item.path.name in KERNEL_FILES) and parameters.get("dtype") != torch.float64


def pytest_configure(config):
    numpy.seterr(all="ignore")  # a GPU does not warn of infinities and NaNs
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills new memory with NaNs
    interpret_fast()
    correct_bfloat16()
    watch_memory()
    for mechanism in MECHANISMS:
        if mechanism.operator and "cuda" in mechanism.operator.kernels:
            mechanism.operator.kernels["cpu"] = mechanism.operator.kernels["cuda"]
    # An operation takes as long on a small tile as on a large one. And all kernels get tiles of one shape, since NumPy
    # rounds products of different shapes differently, which gradients of logits of 10,000 would show.
    own_tiles = talking_heads.choose_tiles
    talking_heads.choose_tiles = lambda *call: own_tiles(*call)._replace(own=32, other=32)
    neighborhood.forward_tiles = neighborhood.backward_tiles = lambda *_: neighborhood.Tiles(32, 32, 4, 1)


def interpret_fast():
    """Leave out two thirds of the interpreter's work.

    It replaces Triton's language at every call of a function in a kernel, where once is enough, and computes every
    operation of integers again in 64 bits, for a check of overflows that it then does not make.
    """
    interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    replaced = interpreter._LangPatchScope()
    interpreter._patch_lang = lambda function: replaced
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
