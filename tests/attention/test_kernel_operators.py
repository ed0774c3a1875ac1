"""The registered operators under opcheck, export, torch.compile, profilers and FLOP counters."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from drawing import draw_single
from regard.attention import NeighborhoodAttention2d, WindowAttention, neighborhood_attention

from .kernels import LOCAL, local, needs_native


@needs_native
def test_default_on_the_cpu():
    query, key, value = draw_single(3, 1, 6, 6, 2, 4)
    with torch.profiler.profile() as profile:
        neighborhood_attention(query, key, value, 3)
    assert "regard::neighborhood_attention" in {event.key for event in profile.key_averages()}


@pytest.mark.exhaustive
@needs_native
@pytest.mark.parametrize(
    "layer",
    [NeighborhoodAttention2d(8, num_heads=2, kernel_size=3), WindowAttention(8, num_heads=2, window_size=3)],
    ids=LOCAL,
)
def test_inductor(layer):
    torch.compiler.reset()
    x = torch.randn(2, 7, 9, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).sin().sum(), x)
    torch.testing.assert_close(gradient, expected)


@needs_native
@local
def test_flops_are_counted(attention):
    query, key, value = (tensor.requires_grad_() for tensor in draw_single(3, 2, 3, 6, 3, 4))
    with FlopCounterMode(display=False) as counter:
        attention(query, key, value).sum().backward()
    products = 2 * (2 * 18 * 3) * 9 * 4
    assert counter.get_total_flops() == 2 * products + 5 * products


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "first",
    [
        "import regard",
        "import torch.utils.flop_counter",
        "import regard, importlib.util; importlib.util.find_spec(name)",
    ],
)
def test_flop_formulas_in_any_order_of_imports(first):
    program = f"""
name = "torch.utils.flop_counter"
{first}
import regard, torch, torch.utils.flop_counter as counter
print(torch.ops.regard.window_attention in counter.flop_registry)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


UPGRADE = """
import sys, torch
from regard.attention._operator import Kernel, Operator

extra = int(sys.argv[1])  # tensors that the forward pass saves for the backward pass
def forward(out, *saved_and_x):
    out.copy_(saved_and_x[-1] * 2)
def backward(grads, grad, x, *saved):
    grads[0].copy_(grad * (2 + len(saved)))
kernel = Kernel(("cpu",), forward, backward, lambda arguments: [])
schema = "cached(Tensor x) -> (" + ", ".join(["Tensor"] * (1 + extra)) + ")"
outputs = lambda x: tuple(torch.empty_like(x) for _ in range(1 + extra))
cached = Operator(schema, reference=lambda x: x * 2, outputs=outputs, kernels=[kernel], statistics=extra)
x = torch.ones(3, requires_grad=True)
torch.compile(lambda x: cached(x).sin())(x).sum().backward()
print(float(x.grad[0] / torch.cos(torch.tensor(2.0))))
"""


@pytest.mark.exhaustive
def test_an_upgrade_does_not_run_cached_programs_of_before(tmp_path):
    """TorchInductor's key has no schema; the backward pass of a cached program would miss what is saved now."""
    for extra in (1, 3, 1):
        done = subprocess.run(
            [sys.executable, "-c", UPGRADE, str(extra)],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert round(float(done.stdout), 4) == 2 + extra
