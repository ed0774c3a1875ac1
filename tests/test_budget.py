"""Budgets accept other correct computations of the same values, and reject planted errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention.oracle import run_with_gradients, truth_of
from budget import assert_definition, assert_within_budget, truth
from regard.attention import MECHANISMS
from regard.errors import UnsupportedError

TESTS = Path(__file__).parent
LOWERED = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
TERMS = (8, 64, 1000)
CANCELED = {"query_bias", "key_bias", "logits_bias"}  # constants that a softmax cancels


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Sums of products in float32, [M, n] times [n, K].


def in_sequence(left, right):
    total = torch.zeros(left.shape[0], right.shape[1])
    for k in range(left.shape[1]):
        total = total + left[:, k, None] * right[k]
    return total


def in_random_order(left, right):
    order = torch.randperm(left.shape[1], generator=torch.Generator().manual_seed(1))
    return in_sequence(left[:, order], right[order])


def pairwise(left, right):
    terms = list((left.T[:, :, None] * right[:, None]).unbind())
    while len(terms) > 1:
        terms = [sum(terms[k : k + 2]) for k in range(0, len(terms), 2)]
    return terms[0]


def with_fused_multiply_add(left, right):
    total = torch.zeros(left.shape[0], right.shape[1])
    for k in range(left.shape[1]):
        total = (total.double() + left[:, k, None].double() * right[k].double()).float()
    return total


@pytest.mark.parametrize("mean", [0, 1])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("product", [in_sequence, in_random_order, pairwise, with_fused_multiply_add, torch.matmul])
def test_any_order_of_summation_is_accepted(product, terms, mean):
    left, right = drawn(6, terms) + mean, drawn(terms, 5, seed=1) + mean
    assert_within_budget(product(left, right), truth(torch.matmul, left, right))


@pytest.mark.parametrize("mean", [0, 1])
@pytest.mark.parametrize("terms", TERMS)
def test_errors_in_a_product_are_rejected(terms, mean):
    left, right = drawn(6, terms) + mean, drawn(terms, 5, seed=1) + mean
    expected = truth(torch.matmul, left, right)
    for wrong in (
        left[:, 1:] @ right[1:],  # a term is missing
        left.bfloat16().float() @ right.bfloat16().float(),
        tf32(left) @ tf32(right),
        left @ right * (1 + 1e-4),
    ):
        with pytest.raises(AssertionError, match="budget"):
            assert_within_budget(wrong, expected)


def tf32(tensor):
    """Round to the 10 bits of TF32."""
    return (tensor.view(torch.int32) + (1 << 12)).bitwise_and(-1 << 13).view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_products_are_accumulated_in_float32(dtype):
    left, right = drawn(6, 1000, dtype=dtype), drawn(1000, 5, seed=1, dtype=dtype)
    expected = truth(torch.matmul, left, right)
    assert_within_budget((left.float() @ right.float()).to(dtype), expected)
    total = torch.zeros(6, 5, dtype=dtype)
    for k in range(1000):
        total = total + left[:, k, None] * right[k]
    with pytest.raises(AssertionError, match="budget"):
        assert_within_budget(total, expected)


# Softmax attention, [N, C] queries and [M, C] keys and values.


def attend(query, key, value, scale=0.5):
    return (query @ key.T * scale).softmax(-1) @ value


def online(query, key, value, block=7, rescale=True):
    """Attention by blocks of keys with a running maximum, as in the kernels."""
    largest = torch.full((len(query), 1), -torch.inf)
    total, out = torch.zeros(len(query), 1), torch.zeros(len(query), value.shape[1])
    for keys, values in zip(key.split(block), value.split(block), strict=True):
        logits = query @ keys.T * 0.5
        before, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
        weights = (logits - largest).exp()
        factor = (before - largest).exp() if rescale else 1
        total, out = total * factor + weights.sum(-1, keepdim=True), out * factor + weights @ values
    return out / total


def gradients(query, key, value, attend=attend):
    inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    return torch.autograd.grad(attend(*inputs).sin().sum(), inputs)


@pytest.fixture(params=[16, 200])
def qkv(request):
    return [drawn(request.param, 8, seed=seed) for seed in range(3)]


def test_other_algorithms_are_accepted(qkv):
    expected = truth(attend, *qkv)
    query, key, value = qkv
    assert_within_budget(online(*qkv), expected)
    weights = torch.exp2(query @ (key * (0.5 * 1.4426950408889634)).T)  # base 2, no maximum, divided at the end
    assert_within_budget(weights @ value / weights.sum(-1, keepdim=True), expected)
    assert_within_budget(gradients(*qkv, attend=online), truth(gradients, *qkv))


def test_errors_in_attention_are_rejected(qkv):
    query, key, value = qkv
    expected = truth(attend, *qkv)
    for wrong in (
        online(*qkv, rescale=False),
        attend(query, key, value, scale=0.5 * (1 + 1e-4)),
        attend(query, key[:-1], value[:-1]),
        (query @ key.T * 0.5).softmax(-1).bfloat16().float() @ value,
    ):
        with pytest.raises(AssertionError, match="budget"):
            assert_within_budget(wrong, expected)


def test_errors_in_gradients_are_rejected(qkv):
    grads, expected = gradients(*qkv), truth(gradients, *qkv)
    assert_within_budget(grads, expected)
    for index in range(3):
        for wrong in (grads[index] * (1 + 1e-4), grads[index].bfloat16().float(), grads[index].roll(1, 0)):
            with pytest.raises(AssertionError, match="budget"):
                assert_within_budget((*grads[:index], wrong, *grads[index + 1 :]), expected)


def test_a_module_and_its_definition():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GELU()).eval()
    x = drawn(2, 3, 9, 9)
    assert_within_budget(module(x), truth(module.double(), x))
    exact = torch.nn.functional.gelu(module[:2](x.double()))
    assert_definition(module, x, exact=exact)
    with pytest.raises(AssertionError, match="budget"):
        assert_definition(module, x, exact=exact.float().double())


def test_wrong_shapes_dtypes_and_numbers_of_results_are_rejected():
    expected = truth(torch.neg, drawn(3))
    for wrong in (-drawn(3)[:, None], -drawn(3).double(), (-drawn(3), drawn(3)), drawn(3) * torch.nan):
        with pytest.raises((AssertionError, ValueError)):
            assert_within_budget(wrong, expected)


def test_kernels_are_switched_off():
    """A function or module with `backend=None` takes its reference, and an explicit kernel is an error."""
    mechanism = next(one for one in MECHANISMS if one.name == "neighborhood")
    sample = mechanism.samples[0]
    chosen, reference = (
        truth(mechanism.function, **sample.tensors(), **sample.options, backend=backend)
        for backend in (None, "reference")
    )
    assert chosen.allowed == reference.allowed and torch.equal(chosen.exact[0], reference.exact[0])
    with pytest.raises(UnsupportedError, match="kernels are switched off"):
        truth(mechanism.function, **sample.tensors(), **sample.options, backend="fused")


def test_an_unknown_operation_is_an_error():
    with pytest.raises(NotImplementedError, match=r"has no model of its rounding; add it to tests/budget\.py"):
        truth(torch.linalg.inv, torch.eye(3))


@pytest.mark.parametrize("mechanism", [pytest.param(one, id=one.name) for one in MECHANISMS])
def test_each_mechanism_with_an_error_in_float32_is_rejected(mechanism):
    sample = mechanism.samples[0]
    tensors = sample.tensors()
    expected = truth_of(mechanism, sample)
    assert_within_budget(run_with_gradients(mechanism, sample, tensors), expected)
    for name in tensors.keys() - CANCELED:
        changed = {**tensors, name: tensors[name] * (1 + 1e-4)}
        with pytest.raises(AssertionError, match="budget"):
            assert_within_budget(run_with_gradients(mechanism, sample, changed), expected)


def budgets_of_samples():
    """Return the budgets of some samples of each mechanism, and check its reference."""
    budgets = {}
    for mechanism in MECHANISMS:
        for sample in mechanism.samples[:2]:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                expected = truth_of(mechanism, sample, dtype)
                assert_within_budget(run_with_gradients(mechanism, sample, sample.tensors(dtype)), expected)
                budgets[f"{mechanism.name}-{sample.name}-{dtype}"] = expected.allowed
    return budgets


@pytest.mark.exhaustive  # two more processes, each with all samples
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_budgets_hold_and_agree_on_every_instruction_set(capability):
    """Lowered instruction sets have the same budgets, and the references keep them there."""
    if capability == "avx2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("the processor has no AVX2")
    script = "import json, test_budget; print(json.dumps(test_budget.budgets_of_samples()))"
    environment = {**os.environ, **LOWERED[capability], "PYTHONPATH": str(TESTS)}
    child = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    for name, budgets in budgets_of_samples().items():
        assert json.loads(child.stdout)[name] == pytest.approx(budgets, rel=1e-3), name
