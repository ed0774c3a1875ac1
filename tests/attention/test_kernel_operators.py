"""The registered operators under opcheck, export, torch.compile, profilers and FLOP counters."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_within_budget, truth
from drawing import draw_single
from regard.attention import NeighborhoodAttention2d, WindowAttention, decompositions, neighborhood_attention

from .kernels import LOCAL, local, needs_native


@needs_native
def test_default_on_the_cpu():
    query, key, value = draw_single(3, 1, 6, 6, 2, 4)
    with torch.profiler.profile() as profile:
        neighborhood_attention(query, key, value, 3)
    assert "regard::neighborhood_attention" in {event.key for event in profile.key_averages()}


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised by opcheck
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", LOCAL)
def test_opcheck(name, axes, permuted):
    tensors = [*draw_single(3, 2, *[6] * axes, 2, 8), torch.randn(2, *[5] * axes)]
    if permuted:
        tensors = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    options = {
        "neighborhood": ([3] * axes, [1] * axes, [1] * axes, [False] * axes, 0.5),
        "window": ([3] * axes, [1] * axes, 0.5),
    }
    operator = getattr(torch.ops.regard, f"{name}_attention").default
    torch.library.opcheck(operator, (*tensors, *options[name]))
    torch.library.opcheck(operator, (*tensors[:3], None, *options[name]))


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised by opcheck
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_of_talking_heads(bias):
    query, key = draw_single(2, 2, 9, 3, 8)
    value = torch.randn(2, 9, 2, 5)
    mixes = [torch.randn(4, 3), torch.randn(2, 4), *((torch.randn(4), torch.randn(2)) if bias else (None, None))]
    tensors = [None if tensor is None else tensor.requires_grad_() for tensor in (query, key, value, *mixes)]
    torch.library.opcheck(torch.ops.regard.talking_heads_attention.default, (*tensors, 0.5))


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised by opcheck
def test_opcheck_of_the_pooled_family():
    query, key, value = (tensor.requires_grad_() for tensor in draw_single(3, 2, 12, 7))
    weight, score = torch.randn(7, requires_grad=True), torch.randn(2, 12, 1, requires_grad=True)
    operators = torch.ops.regard
    tokens = [tensor.detach().unflatten(-1, (1, 7)).requires_grad_() for tensor in (query, key)]
    weights = [torch.randn(1, 7, requires_grad=True) for _ in range(2)]
    torch.library.opcheck(operators.additive_attention.default, (*tokens, *weights, None, None, 0.5))
    for norm in range(3):
        torch.library.opcheck(operators.efficient_additive_attention.default, (query, key, weight, norm, 0.5))
    torch.library.opcheck(operators.separable_attention.default, (score, key, value, [3, 4], [3, 4], [1, 2]))


@needs_native
@pytest.mark.parametrize("name", LOCAL)
def test_export_with_decomposition(name):
    class Layer(torch.nn.Module):
        def forward(self, query, key, value):
            return LOCAL[name](query, key, value)

    tensors = draw_single(3, 1, 6, 9, 2, 4).unbind()
    program = torch.export.export(Layer(), tensors)
    assert f"regard.{name}_attention" in str(program.graph)
    decomposed = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert "regard" not in str(decomposed.graph)
    assert_within_budget(decomposed.module()(*tensors), truth(Layer(), *tensors))


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
