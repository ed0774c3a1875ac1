"""The GPU kernels on a GPU at the sizes of real models: values, memory, bits, poison, graphs, compiled code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from budget import leaves
from memory import memory_of_nans
from regard.attention import MECHANISMS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MECHANISM = {mechanism.name: mechanism for mechanism in MECHANISMS}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # norm of the error over that of the value


def neighborhood(*grid, batch=2, heads=4, dim=32, value_dim=None, **options):
    shapes = dict.fromkeys(("query", "key"), (batch, *grid, heads, dim))
    shapes["value"] = (batch, *grid, heads, value_dim or dim)
    kernel = options["kernel_size"]
    kernel = [kernel] * len(grid) if isinstance(kernel, int) else kernel
    return "neighborhood", {**shapes, "bias": (heads, *(2 * size - 1 for size in kernel))}, options


def window(*grid, batch=4, heads=3, dim=32, **options):
    shapes = dict.fromkeys(("query", "key", "value"), (batch, *grid, heads, dim))
    sizes = options["window_size"]
    sizes = [sizes] * len(grid) if isinstance(sizes, int) else sizes
    return "window", {**shapes, "bias": (heads, *(2 * size - 1 for size in sizes))}, options


def talking_heads(tokens, heads, dim, batch=2):
    shapes = dict.fromkeys(("query", "key", "value"), (batch, tokens, heads, dim))
    mixes = dict.fromkeys(("logits_mix", "weights_mix"), (heads, heads))
    return "talking_heads", {**shapes, **mixes, "weights_bias": (heads,)}, {}


def pooled(name, *grid, channels, batch=4, **options):
    tokens = (batch, *grid, channels)
    if name == "separable":
        return name, {"query": (*tokens[:-1], 1), "key": tokens, "value": tokens}, options
    return name, {"query": tokens, "key": tokens, "weight": (channels,)}, options


def additive(tokens, heads, dim, batch=4):
    shapes = dict.fromkeys(("query", "key"), (batch, tokens, heads, dim))
    return "additive", {**shapes, **dict.fromkeys(("query_weight", "key_weight"), (heads, heads * dim))}, {}


CALLS = {
    "nat": neighborhood(56, 56, kernel_size=7),
    "nat last stage": neighborhood(7, 7, kernel_size=7, heads=16),
    "dinat": neighborhood(56, 50, kernel_size=7, dilation=(8, 7)),
    "13x13, 72 channels": neighborhood(40, 33, kernel_size=13, dim=72, heads=2),
    "80 and 24 channels": neighborhood(30, 31, kernel_size=(5, 9), dim=80, value_dim=24, heads=2),
    "256 channels": neighborhood(20, 20, kernel_size=7, dim=256, heads=1),
    "8 channels": neighborhood(28, 28, kernel_size=7, dim=8),
    "causal": neighborhood(300, kernel_size=65, is_causal=True),
    "stride": neighborhood(41, 37, kernel_size=(8, 7), stride=(4, 3), dilation=(2, 1)),
    "3-D": neighborhood(9, 20, 18, kernel_size=(3, 7, 6), heads=2),
    "large window": neighborhood(60, 70, kernel_size=(40, 44), heads=1, dim=64, batch=1),
    "swin": window(56, 56, window_size=7, shift_size=3),
    "swin v2, 16": window(64, 64, window_size=16, shift_size=8),
    "window 12": window(48, 48, window_size=12, shift_size=6),
    "window 24": window(48, 48, window_size=24, shift_size=12, batch=2),
    "video swin": window(8, 28, 28, window_size=(8, 7, 7), shift_size=(0, 3, 3), batch=1),
    "cait xxs": talking_heads(196, 4, 48),
    "cait s": talking_heads(576, 8, 48),
    "cait m": talking_heads(196, 16, 48, batch=1),
    "swiftformer": pooled("efficient_additive", 56, 56, channels=48),
    "swiftformer, softmax": pooled("efficient_additive", 14, 14, channels=220, token_norm="softmax"),
    "mobilevitv2": pooled("separable", 32, 32, channels=128, patch_size=2),
    "fastformer": additive(500, 16, 16),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def draw(call, dtype):
    name, shapes, _ = call
    generator = torch.Generator("cuda").manual_seed(len(name))
    return {key: torch.randn(shape, generator=generator, device="cuda").to(dtype) for key, shape in shapes.items()}


def results(call, tensors, backend="fused"):
    """The outputs and the gradients of a fixed projection of them."""
    name, _, options = call
    tensors = {key: tensor.detach().requires_grad_() for key, tensor in tensors.items()}
    outputs = leaves(MECHANISM[name].function(**tensors, **options, backend=backend))
    generator = torch.Generator("cuda").manual_seed(7)
    grads = [torch.randn(one.shape, generator=generator, device="cuda").to(one.dtype) for one in outputs]
    gradients = torch.autograd.grad(outputs, list(tensors.values()), grads)
    names = [f"output {place}" for place in range(len(outputs))] + [f"gradient of {key}" for key in tensors]
    return dict(zip(names, (*(one.detach() for one in outputs), *gradients), strict=True))


@calls
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values(call, dtype):
    tensors = draw(call, dtype)
    exact = results(call, {key: tensor.double() for key, tensor in tensors.items()}, "reference")
    with memory_of_nans():
        got = results(call, tensors)
    for name, value in exact.items():
        error = ((got[name].double() - value).norm() / value.norm()).item()
        assert error <= TOLERANCE[dtype], f"{name}: {error:.3g}"


@calls
def test_same_bits(call):
    tensors = draw(call, torch.bfloat16)
    first = results(call, tensors)
    for _ in range(9):
        again = results(call, tensors)
        assert all(torch.equal(one, again[name]) for name, one in first.items())


@calls
def test_graphs(call):
    """A captured forward pass, replayed on other values."""
    name, _, options = call
    tensors = draw(call, torch.bfloat16)
    call_it = lambda: leaves(MECHANISM[name].function(**tensors, **options, backend="fused"))  # noqa: E731
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        call_it()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = call_it()
    for tensor in tensors.values():
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(captured, call_it(), strict=True))


def test_memory_does_not_grow_with_pairs():
    """Forward and backward of a large window take what is saved, and the gradients."""
    query, key, value = (torch.randn(1, 128, 128, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    tensors = [one.requires_grad_() for one in (query, key, value)]
    grad = torch.randn_like(query)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = MECHANISM["neighborhood"].function(*tensors, 65)
    torch.autograd.grad(out, tensors, grad)
    used = torch.cuda.max_memory_allocated() - before
    assert used <= 5 * query.nbytes  # the output, three gradients, and statistics


@pytest.mark.parametrize("name", ["nat", "swin", "cait xxs", "swiftformer", "mobilevitv2", "fastformer"])
def test_compiled(name):
    mechanism, _, options = CALLS[name]
    tensors = draw(CALLS[name], torch.bfloat16)
    compiled = torch.compile(MECHANISM[mechanism].function, fullgraph=True)
    with torch.no_grad():
        got, expected = (
            leaves(one(**tensors, **options, backend="fused")) for one in (compiled, MECHANISM[mechanism].function)
        )
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer(tool):
    """No kernel accesses what is not its own, or shared memory that another warp still writes."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    program = Path(__file__).with_name("small_calls.py")
    memory = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # each tensor has borders of its own
    done = subprocess.run([*command, program], capture_output=True, text=True, env={**os.environ, **memory})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
