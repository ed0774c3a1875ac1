"""Tolerances that are computed, not chosen."""

import torch


def leaves(result):
    """The tensors of a function's result, which is one tensor or a tuple."""
    return result if isinstance(result, tuple) else (result,)


def error(got, exact):
    """The largest absolute difference from the exact values."""
    return (got.double() - exact.double()).abs().max().item() if exact.numel() else 0.0


def rounding(exact, dtype):
    """One rounding of the largest exact value."""
    return torch.finfo(dtype).eps * exact.abs().max().item() if exact.numel() else 0.0


def assert_within_budget(got, *, plain, exact):
    """Hold `got` to twice the error of plain PyTorch in the same dtype, plus one rounding."""
    for one, reference, truth in zip(leaves(got), leaves(plain), leaves(exact), strict=True):
        assert one.shape == truth.shape and one.dtype == reference.dtype
        allowed = 2 * error(reference, truth) + rounding(truth, one.dtype)
        assert error(one, truth) <= allowed, f"error {error(one, truth):.3g}, budget {allowed:.3g}"


def assert_definition(got, *, single, exact):
    """Hold float64 results to an independent computation in float64.

    How much rounding the formula amplifies is read off the same code in float32, and scaled to float64.
    """
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    for one, rounded, truth in zip(leaves(got), leaves(single), leaves(exact), strict=True):
        assert one.shape == truth.shape and one.dtype == torch.float64
        allowed = 4 * ratio * error(rounded, truth) + 4 * rounding(truth, torch.float64)
        assert error(one, truth) <= allowed, f"error {error(one, truth):.3g}, budget {allowed:.3g}"
