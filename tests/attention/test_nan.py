"""NaN and infinity: wherever the reference returns NaN, the kernels return NaN, in outputs and in all gradients."""

import pytest
import torch

from budget import leaves
from regard.attention import MECHANISMS
from regard.attention._mechanism import Sample
from regard.native import loader

from .kernels import INSTRUCTION_SETS, needs_native

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BY_NAME = {mechanism.name: mechanism for mechanism in MECHANISMS}
POURED = (torch.nan, torch.inf, -torch.inf)

# More tokens than one unit or block has, and rows that do not fill vectors.
LARGE = {
    "additive": [
        Sample(
            "large",
            {
                "query": (3, 3, 8, 9, 4, 16),
                "key": (3, 3, 8, 9, 4, 16),
                "query_weight": (4, 64),
                "key_weight": (4, 64),
            },
            {"scale": -2.0},
        )
    ],
    "efficient_additive": [
        Sample(
            f"large_{norm}",
            {"query": (3, 3, 8, 9, 64), "key": (3, 3, 8, 9, 64), "weight": (64,)},
            {"token_norm": norm, "scale": -2.0},
        )
        for norm in ("softmax", "l2", "ones")
    ],
    "separable": [
        Sample(
            "large", {"query": (2, 16, 16, 1), "key": (2, 16, 16, 20), "value": (2, 16, 16, 20)}, {"patch_size": (2, 2)}
        )
    ],
    "talking_heads": [
        Sample(
            "large",
            {
                **dict.fromkeys(("query", "key", "value"), (2, 60, 3, 20)),
                "logits_mix": (3, 3),
                "weights_mix": (3, 3),
                "weights_bias": (3,),
            },
        )
    ],
    "window": [
        Sample(
            "large",
            {**dict.fromkeys(("query", "key", "value"), (2, 14, 14, 3, 20)), "bias": (3, 13, 13)},
            {"window_size": 7, "shift_size": 3},
        )
    ],
}

with_libraries = pytest.mark.parametrize("library", INSTRUCTION_SETS if loader.NATIVE.library else ())
with_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def select(library, monkeypatch):
    monkeypatch.setattr(loader, "NATIVE", loader.load(library))


def pour(tensor, place, value):
    """A copy of a tensor with one element replaced."""
    tensor = tensor.clone()
    tensor.view(-1)[place] = value
    return tensor


def places(tensor):
    """The first, the middle and the last element, which shares its vector with padding."""
    return sorted({0, tensor.numel() // 2, tensor.numel() - 1})


def nan_patterns(mechanism, sample, tensors, backend, seed=None):
    """Where each output and each gradient is NaN; `seed` is the place and value poured into the outputs' gradients."""
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    outs = leaves(mechanism.function(**tensors, **sample.options, backend=backend))
    generator = torch.Generator().manual_seed(99)
    seeds = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) for out in outs]
    if seed is not None:
        seeds = [pour(one, *seed) for one in seeds]
    grads = torch.autograd.grad(outs, list(tensors.values()), seeds)
    names = (*(f"output {index}" for index in range(len(outs))), *tensors)
    return {name: one.isnan() for name, one in zip(names, (*outs, *grads), strict=True)}


def assert_same_patterns(mechanism, sample, tensors, case, seed=None):
    got, expected = (nan_patterns(mechanism, sample, tensors, backend, seed) for backend in ("fused", "reference"))
    wrong = [f"{name} of {case}" for name in expected if not torch.equal(got[name], expected[name])]
    assert not wrong, "; ".join(wrong)
    return any(one.any() for one in expected.values())


def samples(mechanism, dtype):
    """All samples in float32, and some in the other dtypes, since the kernels have one code for all."""
    own = [sample for sample in mechanism.samples if all(t.numel() for t in sample.tensors(dtype).values())]
    chosen = [*(own if dtype == torch.float32 else own[:4]), *LARGE[mechanism.name]]
    return [s for s in chosen if not mechanism.unsupported_reasons(**s.tensors(dtype), **s.options)]


@pytest.mark.one_parameter
@needs_native
@with_libraries
@with_dtypes
@pytest.mark.parametrize("name", LARGE)
def test_inputs(name, dtype, library, monkeypatch):
    select(library, monkeypatch)
    mechanism, found = BY_NAME[name], 0
    for sample in samples(mechanism, dtype):
        tensors = sample.tensors(dtype)
        for argument in tensors:
            for value in POURED:
                for place in places(tensors[argument]):
                    poured = {**tensors, argument: pour(tensors[argument], place, value)}
                    case = f"{sample.name}: {argument}[{place}] = {value}"
                    found += assert_same_patterns(mechanism, sample, poured, case)
    assert found, "no input made the reference NaN"


@pytest.mark.one_parameter
@needs_native
@with_libraries
@with_dtypes
@pytest.mark.parametrize("name", LARGE)
def test_gradients_of_outputs(name, dtype, library, monkeypatch):
    select(library, monkeypatch)
    mechanism, found = BY_NAME[name], 0
    for sample in samples(mechanism, dtype):
        for value in POURED:
            for place in (0, -1):
                case = f"{sample.name}: gradient[{place}] = {value}"
                found += assert_same_patterns(mechanism, sample, sample.tensors(dtype), case, (place, value))
    assert found, "no gradient made the reference NaN"


@pytest.mark.one_parameter
@needs_native
@with_libraries
@with_dtypes
def test_neighborhood(dtype, library, monkeypatch):
    """Outputs are NaN where the reference is; NaN in gradients may also reach keys next to those that a query sees.

    The reference's gradients of causal calls are left out: it gathers hidden keys too, and makes their gradients NaN.
    """
    select(library, monkeypatch)
    mechanism, found = BY_NAME["neighborhood"], 0
    for sample in mechanism.samples:
        tensors = sample.tensors(dtype)
        if not all(tensor.numel() for tensor in tensors.values()):
            continue
        is_causal = sample.options.get("is_causal", False)
        for argument, value in ((argument, value) for argument in tensors for value in POURED):
            poured = {**tensors, argument: pour(tensors[argument], tensors[argument].numel() // 2, value)}
            got, expected = (nan_patterns(mechanism, sample, poured, backend) for backend in ("fused", "reference"))
            case = f"{sample.name}: {argument} = {value}"
            assert torch.equal(got["output 0"], expected["output 0"]), case
            found += expected["output 0"].any()
            if is_causal is False:
                lost = [name for name, one in expected.items() if (one & ~got[name]).any()]
                assert not lost, f"{lost} of {case}"
    assert found, "no input made the reference NaN"


@needs_native
def test_large_finite_inputs_stay_finite():
    """A sum of squares that overflows is no NaN: the reference divides by infinity."""
    mechanism = BY_NAME["efficient_additive"]
    for sample in LARGE["efficient_additive"]:
        tensors = sample.tensors()
        tensors["query"][0, 0, 0, 0] *= 1e30
        assert_same_patterns(mechanism, sample, tensors, sample.name)
