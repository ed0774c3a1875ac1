"""Run the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.

Build the native libraries with the sanitizers, once per instruction set. Load each into a new Python process that
calls every sample of every mechanism that has a kernel, and larger grids. Then run wrong nodes on the library of
operators in ONNX Runtime, if that is installed.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
WRONG_NODES = 2000


def build(folder):
    configure = ["cmake", "-S", ROOT, "-B", folder / "build", "-G", "Ninja"]
    subprocess.run(
        [*configure, "-DREGARD_SANITIZE=ON", f"-DREGARD_OUTPUT={folder}"], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["cmake", "--build", folder / "build"], check=True, stdout=subprocess.DEVNULL)


def check(file):
    """Run all samples in all dtypes, on one and two threads; runs in the child process."""
    import torch

    from attention.neighborhood.grids import GRIDS
    from budget import leaves
    from regard.attention import MECHANISMS, neighborhood_attention
    from regard.native import loader

    native = loader.NATIVE = loader.Native(ctypes.CDLL(file), Path(file).name, "")
    calls = 0
    for mechanism in MECHANISMS:
        for sample in mechanism.samples:
            for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
                tensors = {name: tensor.requires_grad_() for name, tensor in sample.tensors(dtype).items()}
                if mechanism.name == "softmax" or mechanism.unsupported_reasons(**tensors, **sample.options):
                    continue
                for threads in (1, 2):
                    torch.set_num_threads(threads)
                    outs = leaves(mechanism.function(**tensors, **sample.options, backend="fused"))
                    gradients = torch.autograd.grad(outs, list(tensors.values()), list(map(torch.ones_like, outs)))
                    assert all(result.isfinite().all() for result in (*outs, *gradients))
                    calls += 1
    for grid, heads, head_dim, kernel, options in GRIDS:
        shape = (1, *grid, heads, head_dim)
        tensors = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        tensors.append(torch.randn(heads, *(2 * size - 1 for size in kernel), requires_grad=True))
        out = neighborhood_attention(*tensors[:3], kernel, **options, bias=tensors[3], backend="fused")
        assert all(result.isfinite().all() for result in torch.autograd.grad(out.sum(), tensors))
        calls += 1
    calls += check_dense()
    assert calls > 0
    print(f"{native.instruction_set}: {calls} calls, forward and backward, nothing found", flush=True)


def check_dense():
    """Run the kernels for inference on odd sizes, and return how often."""
    import itertools

    import torch
    from torch import nn

    from regard.dense import DepthwiseConv2d, PanelConv2d, PanelLinear, depthwise_block, mlp

    calls = 0
    with torch.no_grad():
        for sizes, tokens, threads in itertools.product([(20, 33, 7), (1, 1, 1), (257, 300, 48)], (1, 61, 300), (1, 2)):
            torch.set_num_threads(threads)
            first, second = PanelLinear(*sizes[:2], bias=False), PanelLinear(*sizes[1:])
            x, residual = torch.randn(tokens, sizes[0]), torch.randn(tokens, sizes[2])
            norm = nn.LayerNorm(sizes[0], elementwise_affine=False)
            assert mlp(first, second, x, activation=nn.GELU(), norm=norm, residual=residual).isfinite().all()
            assert first(x).isfinite().all()
            calls += 2
        for grid, (size, stride), channels in itertools.product(
            [(1, 1), (5, 7), (33, 12)], [(3, 1), (3, 2), (7, 1)], [(19, 37, 5), (16, 16, 16)]
        ):
            before, after = PanelConv2d(*channels[:2], 1), PanelConv2d(*channels[1:], 1)
            options = {"stride": stride, "padding": size // 2, "groups": channels[1]}
            middle = DepthwiseConv2d(channels[1], channels[1], size, **options)
            x = torch.randn(2, channels[0], *grid).to(memory_format=torch.channels_last)
            activations = (nn.SiLU(), nn.GELU(), None)
            assert depthwise_block(x, middle, [after], activations, before=before).isfinite().all()
            if channels[0] == channels[1]:
                assert depthwise_block(x, middle, [after], activations, residual=stride == 1).isfinite().all()
            calls += 1
    return calls


def main():
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        runtimes = [runtime("libasan.so"), runtime("libubsan.so")]
        environment = {**os.environ, "LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
        for file in sorted(Path(folder).glob("libregard_*")):
            if runs_here(file.stem):
                subprocess.run([sys.executable, __file__, str(file)], check=True, env=environment, cwd=ROOT)
        check_operators(Path(folder) / "libregard_onnxruntime.so", environment)


def check_operators(library, environment):
    """Run wrong nodes of ONNX Runtime in a child process; an allocation that fails is part of the test."""
    if not library.is_file() or find_spec("onnxruntime") is None:
        print("ONNX Runtime: left out, since it or the library of operators is missing", flush=True)
        return
    environment = {**environment, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    fuzz = ROOT / "tests" / "exporting" / "fuzz_operators.py"
    done = subprocess.run(
        [sys.executable, fuzz, library, str(WRONG_NODES)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    print(f"ONNX Runtime: {', '.join(done.stdout.splitlines())}, nothing found", flush=True)


def runtime(name):
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def runs_here(stem):
    from regard.native.loader import instruction_sets

    return stem.removeprefix("libregard_") in instruction_sets()


if __name__ == "__main__":
    check(sys.argv[1]) if len(sys.argv) > 1 else main()
