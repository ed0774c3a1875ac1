"""What the interpreter is made to see: accesses that race or leave their tensors, and bfloat16: `make test-triton`."""

import os

import pytest
import torch

triton = pytest.importorskip("triton")
tl = triton.language

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="for Triton's interpreter")


@triton.jit
def copy(source, target, SIZE: tl.constexpr, STEP: tl.constexpr):
    places = tl.program_id(0) * STEP + tl.arange(0, SIZE)
    tl.store(target + places, tl.load(source + places))


@triton.jit
def spread(source, target, SIZE: tl.constexpr):
    tl.store(target + tl.arange(0, SIZE) // 2, tl.load(source + tl.arange(0, SIZE)))


@triton.jit
def count(target):
    tl.atomic_add(target, 1.0)


@triton.jit
def multiply(a, b, product, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    left, right = tl.load(a + places), tl.load(b + places)
    tl.store(product + places, (tl.dot(left, right) + left * right).to(product.dtype.element_ty))


def fails(match):
    return pytest.raises(Exception, match=match)


def test_a_sound_launch_passes():
    source, target = torch.randn(2, 32)
    copy[(2,)](source, target, SIZE=16, STEP=16)
    assert torch.equal(source, target)


def test_races():
    source, target = torch.randn(2, 32)
    with fails("a launch writes an element twice"):
        copy[(2,)](source, target, SIZE=16, STEP=8)
    with fails("an operation writes an element twice"):
        spread[(1,)](source, target, SIZE=16)
    with fails("reads what it wrote"):
        copy[(2,)](source[:24], source[8:], SIZE=8, STEP=8)
    with fails("writes what it read"):
        copy[(2,)](source[8:], source[:24], SIZE=16, STEP=8)
    with fails("an atomic operation"):
        count[(1,)](target)


def test_accesses_outside_of_tensors():
    source, target = torch.randn(2, 32).unbind()
    with fails("between the elements"):
        copy[(1,)](source[:24], target, SIZE=32, STEP=8)
    with fails("between the elements"):
        copy[(1,)](torch.randn(32, 2)[:, 0], target.clone(), SIZE=32, STEP=8)
    with fails("outside of all tensors"):
        copy[(1,)](torch.randn(32), torch.empty(64), SIZE=64, STEP=8)


def test_new_memory_is_not_a_number():
    assert torch.empty(3).isnan().all()
    assert torch.randn(3).new_empty(3).isnan().all()


def test_products_of_bfloat16():
    a, b = torch.randn(2, 16, 16).bfloat16()
    product = torch.empty_like(a)
    multiply[(1,)](a, b, product, SIZE=16)
    exact = a.double() @ b.double() + (a * b).double()
    assert (product.double() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_rounding_to_bfloat16():
    halfway = torch.tensor(
        [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-12, 3e38, 3.4e38, torch.inf, -torch.inf, torch.nan]
    )
    target = torch.empty(8, dtype=torch.bfloat16)
    copy[(1,)](halfway, target, SIZE=8, STEP=8)
    torch.testing.assert_close(target, halfway.bfloat16(), rtol=0, atol=0, equal_nan=True)
