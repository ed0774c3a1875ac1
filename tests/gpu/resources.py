"""Compile the GPU kernels for named processors, without having one, and report what they use: `make resources`.

For each kernel that the calls below launch: registers per thread, bytes of registers that were spilled to memory, and
bytes of shared memory. Exits with 1 if a kernel spills or needs more shared memory than there is.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from regard.attention import MECHANISMS
from regard.gpu import launch

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 99 * 1024),  # of the newer GPUs that take its tiles: 86, 89, 120
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MECHANISM = {mechanism.name: mechanism for mechanism in MECHANISMS}


@contextmanager
def recorded(target):
    """Collect (module, kernel, arguments, constants) of every launch for a target instead of running it."""
    launches = []

    def record(self, name, programs, *arguments, **constants):
        launches.append((self.module, name, arguments, constants))

    with (
        patch.object(launch.Kernels, "launch", record),
        patch.object(launch, "multiprocessors", lambda tensor: 132),
        patch.object(launch, "architecture", lambda tensor: target),
        patch.object(launch, "precision", lambda tensor: "tf32x3" if tensor.dtype == torch.float32 else "tf32"),
    ):
        yield launches


def launches_of(name, tensors, options, target):
    """Return the launches of a call of a mechanism and of its gradients on a target."""
    mechanism = MECHANISM[name]
    operator = mechanism.operator
    arguments, _ = mechanism.prepare(**tensors, **options)
    inputs = arguments[: len(operator.inputs)]
    outputs = operator.outputs(*inputs)
    grads = [torch.empty_like(one) if isinstance(one, torch.Tensor) else None for one in inputs]
    kernel = operator.kernels["cuda"]
    with recorded(target) as launches:
        kernel.forward(*outputs, *inputs)
        kernel.backward(grads, *outputs[: operator.num_grads], *inputs, *outputs[operator.first_saved :])
    return launches


def compile_launch(target, module, name, arguments, constants):
    """Compile a kernel for a target, specialized as Triton would for these arguments."""
    kernel = getattr(import_module(module), name)
    backend = make_backend(target)
    given = [tuple(one) if isinstance(one, list) else one for one in arguments]
    fixed = {key: tuple(one) if isinstance(one, list) else one for key, one in constants.items()}
    if target.backend == "hip" and fixed.get("PRECISION") == "tf32x3":
        fixed["PRECISION"] = "ieee"
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*given, debug=False, **fixed)
    options, signature, constexprs, attributes = kernel._pack_args(backend, fixed, bound, specialization, options)
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def resources(compiled):
    """Return registers per thread, spilled bytes, and bytes of shared memory."""
    if "cubin" in compiled.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        registers, stack = (int(re.search(rf"{word}:(\d+)", text)[1]) for word in ("REG", "STACK"))
        return registers, stack, compiled.metadata.shared
    text = compiled.asm["amdgcn"]
    registers, spilled = (int(re.search(rf"\.{word}:\s+(\d+)", text)[1]) for word in ("vgpr_count", "vgpr_spill_count"))
    return registers, 4 * spilled, compiled.metadata.shared


def calls():
    """Yield (label, mechanism, shapes, options): what models make of each mechanism, small in batch and grid."""
    for rank, kernel, heads, dim in ((2, 7, 2, 32), (2, 7, 2, 72), (2, 13, 2, 80), (2, 7, 1, 128), (3, 5, 1, 256)):
        grid = (16,) * rank
        shapes = dict.fromkeys(("query", "key", "value"), (1, *grid, heads, dim))
        shapes["bias"] = (heads, *(2 * kernel - 1,) * rank)
        yield f"{rank}-D {kernel} hd {dim}", "neighborhood", shapes, {"kernel_size": kernel}
    shapes = dict.fromkeys(("query", "key", "value"), (1, 96, 96, 1, 128))
    yield "2-D 80 hd 128", "neighborhood", shapes, {"kernel_size": 80}
    for window, heads, dim in (
        (7, 3, 32),
        (8, 4, 32),
        (12, 2, 32),
        (24, 1, 64),
        (7, 1, 128),
        (8, 1, 256),
        ((8, 7, 7), 2, 32),
    ):
        axes = (window, window) if isinstance(window, int) else window
        shapes = {name: (1, *(2 * side for side in axes), heads, dim) for name in ("query", "key", "value")}
        shapes["bias"] = (heads, *(2 * side - 1 for side in axes))
        yield f"{window} hd {dim}", "window", shapes, {"window_size": axes, "shift_size": axes[-1] // 2}
    for heads, dim in ((4, 48), (8, 48)):
        shapes = dict.fromkeys(("query", "key", "value"), (1, 196, heads, dim))
        shapes |= dict.fromkeys(("logits_mix", "weights_mix"), (heads, heads)) | {"weights_bias": (heads,)}
        yield f"{heads} heads hd {dim}", "talking_heads", shapes, {}
    for heads, dim in ((4, 16), (8, 32)):
        shapes = dict.fromkeys(("query", "key"), (1, 196, heads, dim))
        shapes |= dict.fromkeys(("query_weight", "key_weight"), (heads, heads * dim))
        yield f"{heads} heads hd {dim}", "additive", shapes, {}
    for channels in (48, 128, 512):
        tokens = (1, 14, 14, channels)
        shapes = {"query": tokens, "key": tokens, "weight": (channels,)}
        yield f"{channels} channels", "efficient_additive", shapes, {"token_norm": "softmax"}
        shapes = {"query": (1, 14, 14, 1), "key": tokens, "value": tokens}
        yield f"{channels} channels", "separable", shapes, {"patch_size": 2}


def is_served(call, dtype):
    """Whether GPUs run the kernels of a call: talking heads in float32 take the reference there."""
    return call[1] != "talking_heads" or dtype != "float32"


def compile_call(job):
    """Return a line per kernel of one call in one dtype on one target; an exclamation mark if it uses too much."""
    (label, name, shapes, options), dtype, target = job
    tensors = {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, shape in shapes.items()}
    processor, limit = TARGETS[target]
    lines = []
    for module, kernel, given, constants in launches_of(name, tensors, options, target):
        used = resources(compile_launch(processor, module, kernel, given, constants))
        bad = used[1] > 0 or used[2] > limit
        words = "{:>4} registers, {:>4} bytes spilled, {:>6} bytes shared".format(*used)
        lines.append(f"{target:7}{name:20}{label:18}{dtype:9}{kernel:22}{words}{'  !' * bad}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--only", default="", help="a part of the mechanism's name")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments = parser.parse_args()
    chosen = [one for one in calls() if arguments.only in one[1]]
    jobs = [job for job in product(chosen, arguments.dtypes, arguments.targets) if is_served(*job[:2])]
    count = bad = 0
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for lines in pool.map(compile_call, jobs):
            print("\n".join(lines), flush=True)
            count, bad = count + len(lines), bad + sum(line.endswith("!") for line in lines)
    print(f"{bad} of {count} kernels use too much")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
