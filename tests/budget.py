"""Compute error budgets: the largest error that rounding explains, for any correct computation of a function.

`truth` evaluates a function in float64, and again several times with simulated rounding: after every operation of
PyTorch, forward and backward, it adds random errors of the size that the tested dtype has. The budget of a result is
five standard deviations of what these errors do to it, plus one rounding of its largest value. It depends on the
function, the inputs and fixed seeds. It does not depend on the processor, the instruction set, the number of threads
or the order of summation. `tests/test_budget.py` shows what a budget accepts and what it rejects.

Hold a kernel, or any other computation of the same values, to the budget of its reference:

    expected = truth(reference, query, key, value)  # in the dtype of the inputs
    assert_within_budget(kernel(query, key, value), expected)

The function may be a module: a copy in float64 is evaluated. Gradients have budgets, too: call `torch.autograd.grad`
inside the function and return the results. Arguments may be keywords, dictionaries or sequences of tensors. While a
budget is computed, regard's kernels are switched off, so that functions and modules with `backend=None` take their
references. For the samples of the mechanisms, `attention.oracle.truth_of(mechanism, sample, dtype)` computes each
budget once.

Hold a definition, evaluated in float64, to an independent definition in float64:

    assert_definition(softmax_attention, query, key, value, scale=0.5, exact=other(query, key, value))
    assert_definition(our_module, x, exact=timm_module.double()(x.double()))

The model of rounding:

* An arithmetic operation (`add`, `mul`, `div`, `sqrt`) has a relative error of up to one rounding, `eps / 2`. Half of
  it is common to the tensor, since equal numbers round equally. Functions such as `exp` have up to four roundings.
* A sum of n terms, and each element of a matrix product or a convolution, has the error of adding the terms one by one
  in random order: every partial sum S_k has an independent rounding, and the mean of the sum of all S_k ** 2 over all
  orders is `n / 3 * S ** 2 + n / 2 * (sum of terms ** 2)`, to leading order. Pairwise and blocked sums have less.
* In bfloat16 and float16, sums and products are accumulated in float32 and rounded once, as in PyTorch. Scatter and
  index additions are accumulated in the dtype itself, as in PyTorch.
* Copies, comparisons and selections are exact.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
from torch._decomp import get_decompositions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from regard.native import loader

aten, prims = torch.ops.aten, torch.ops.prims

DRAWS = 8
DEVIATIONS = 5  # in units of the standard deviation
NO_KERNELS = loader.Native(None, "", "kernels are switched off to compute a budget")
FUNCTION_ROUNDINGS = 4  # the largest error of exp and other functions, in units of eps / 2


@dataclass(frozen=True)
class Truth:
    """The float64 values of a function's results, and how far a correct computation in `dtype` may be from them."""

    exact: tuple[torch.Tensor, ...]
    allowed: tuple[float, ...]
    dtype: torch.dtype


def truth(function, *inputs, dtype=None, draws=DRAWS, **keywords):
    """Evaluate `function` in float64, and compute its budget in `dtype`, by default that of the inputs."""
    if dtype is None:
        tensors = [one for one in tree_leaves((inputs, keywords)) if is_floating(one)]
        dtype = tensors[0].dtype
    function = widened(function, inputs, keywords)
    with sdpa_kernel(SDPBackend.MATH), patch.object(loader, "NATIVE", NO_KERNELS):
        exact = evaluate(function)
        squares = [torch.zeros_like(result) for result in exact]
        for draw in range(draws):
            with Rounding(dtype, seed=draw):
                rounded = evaluate(function)
            for square, one, result in zip(squares, rounded, exact, strict=True):
                square += (one - result).square() / draws
    spreads = (square.max().sqrt().item() if square.numel() else 0.0 for square in squares)
    allowed = (DEVIATIONS * spread + rounding(one, dtype) for spread, one in zip(spreads, exact, strict=True))
    return Truth(exact, tuple(allowed), dtype)


def assert_within_budget(got, expected):
    """Hold every result of a computation to its budget; `expected` is the reference's truth."""
    for one, exact, allowed in zip(leaves(got), expected.exact, expected.allowed, strict=True):
        assert one.shape == exact.shape and one.dtype == expected.dtype
        assert error(one, exact) <= allowed, f"error {error(one, exact):.3g}, budget {allowed:.3g}"


def assert_definition(function, *inputs, exact, draws=DRAWS, **keywords):
    """Hold `function`, evaluated in float64, to the results of an independent computation in float64.

    Both round, so the difference may be twice the budget.
    """
    allowances = truth(function, *inputs, dtype=torch.float64, draws=draws, **keywords).allowed
    ours = evaluate(widened(function, inputs, keywords))
    for one, other, allowed in zip(ours, leaves(exact), allowances, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype == torch.float64
        assert error(one, other) <= 2 * allowed, f"difference {error(one, other):.3g}, budget {2 * allowed:.3g}"


def leaves(result):
    """Return the tensors of a function's result, which is one tensor or a sequence."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def error(got, exact):
    """Return the largest absolute difference from the exact values."""
    return (got.double() - exact.double()).abs().max().item() if exact.numel() else 0.0


def rounding(exact, dtype):
    """Return one rounding of the largest exact value, at least that of the smallest normal number."""
    info = torch.finfo(dtype)
    return info.eps * max(exact.abs().max().item(), info.smallest_normal) if exact.numel() else 0.0


def widened(function, inputs, keywords):
    """Return the call in float64, with detached inputs."""
    inputs, keywords = tree_map_only(
        torch.Tensor, lambda one: one.detach().double() if is_floating(one) else one.detach(), (inputs, keywords)
    )
    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function).double()
    return partial(function, *inputs, **keywords)


def evaluate(function):
    return tuple(result.detach() for result in leaves(function()))


class Rounding(TorchDispatchMode):
    """Adds the rounding errors of a dtype to the result of every operation."""

    def __init__(self, dtype, seed):
        super().__init__()
        info = torch.finfo(dtype)
        self.eps, self.smallest = info.eps, info.smallest_normal * info.eps
        self.sum_eps = min(info.eps, torch.finfo(torch.float32).eps)
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation.namespace not in ("aten", "prims"):
            raise NotImplementedError(f"{operation} is a kernel; pass a reference in eager PyTorch")
        if operation in SPLIT:
            with self:
                return SPLIT[operation](*args, **kwargs)
        if operation._can_decompose():
            with self:
                return operation.decompose(*args, **kwargs)
        name = operation._schema.name.partition("::")[2]
        if name.removesuffix("_") in EXACT or operation.is_view:
            return operation(*args, **kwargs)
        sums = SUMS[name](operation, args, kwargs) if name in SUMS else [(0, None)]
        results = operation(*args, **kwargs)
        rounded = [(one, *terms) for one, terms in zip(leaves(results), sums, strict=False) if is_floating(one)]
        if rounded and name not in SUMS and torch.Tag.pointwise not in operation.tags:
            raise NotImplementedError(f"{operation} has no model of its rounding; add it to tests/budget.py")
        for result, terms, squares in rounded:
            if squares is not None:
                self.round_sum(result, terms, squares, self.eps if name in SCATTERED else self.sum_eps)
            self.round(result, FUNCTION_ROUNDINGS if name in FUNCTIONS else 1)
        return results

    def uniform(self, shape=()):
        """Draw numbers of variance 1, the same on every processor."""
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return drawn.mul_(2 * math.sqrt(3)).sub_(math.sqrt(3))

    def round_sum(self, result, terms, squares, eps):
        """Add the error of a sum of `terms` terms, given the sum of their squares, before it is rounded."""
        variance = (terms / 3 * result.square() + terms / 2 * squares) * (eps / 2) ** 2 / 3
        result += torch.where(variance.isfinite(), variance.sqrt() * self.uniform(result.shape), 0.0)

    def round(self, result, roundings):
        """Add an error of up to `roundings` of `eps / 2`, half of it common to the tensor, and that of underflow."""
        relative = (self.uniform() + self.uniform(result.shape)) * (roundings * self.eps / 4 / math.sqrt(3))
        absolute = (result != 0) * self.uniform(result.shape) * (self.smallest / 4)
        result += torch.where(result.isfinite(), result * relative + absolute, 0.0)


def is_floating(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def square(tensor):
    return None if tensor is None else tensor.square()


def of_product(operation, args, kwargs):
    return [(args[0].shape[-1], operation(square(args[0]), square(args[1])))]


def of_convolution(operation, args, kwargs):
    data, weight, _, *options = args
    return [(weight[0].numel(), operation(square(data), square(weight), None, *options))]


def of_convolution_backward(operation, args, kwargs):
    grad, data, weight, *options = args
    squares = operation(square(grad), square(data), square(weight), *options)
    outputs = grad.numel() // grad.shape[1]
    return list(zip((weight.numel() // data.shape[1], outputs, outputs), squares, strict=True))


def of_sum(operation, args, kwargs):
    if not is_floating(args[0]):
        return [(0, None)]
    squares = operation(square(args[0]), *args[1:], **kwargs)
    return [(args[0].numel() / max(squares.numel(), 1), squares)]


def of_average(operation, args, kwargs):
    """Model pooling, interpolation and their gradients: at least four terms, with weights of at most 1."""
    squares = operation(square(args[0]), *args[1:], **kwargs)
    terms = max(args[0].numel() / max(squares.numel(), 1), 4)
    return [(terms, squares / terms)]


def of_scattered(operation, args, kwargs):
    """Model index and scatter additions, whose elements have different numbers of terms."""
    if not is_floating(args[0]) or ("put" in operation.name() and not (args[3:] or [False])[0]):
        return [(0, None)]
    into, *where, source = args[:4] if "put" not in operation.name() else args[:3]
    terms = operation(torch.ones_like(into), *where, torch.ones_like(source), *args[4:])
    return [(terms, operation(square(into), *where, square(source), *args[4:]))]


def mean(tensor, dim=None, keepdim=False, dtype=None):
    total = tensor.sum(dim, keepdim)
    return total / (tensor.numel() / max(total.numel(), 1))


def variance(tensor, dim=None, correction=1, keepdim=False):
    deviation = tensor - mean(tensor, dim, True)
    total = deviation.square().sum(dim, keepdim)
    return total / (tensor.numel() / max(total.numel(), 1) - correction)


def variance_and_mean(tensor, dim=None, correction=1, keepdim=False):
    return variance(tensor, dim, correction, keepdim), mean(tensor, dim, keepdim)


# Operations that are split into simpler ones, so that each step has its own error.
SPLIT = get_decompositions(
    [
        aten._log_softmax,
        aten._log_softmax_backward_data,
        aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training,
        aten._safe_softmax,
        aten._softmax,
        aten._softmax_backward_data,
        aten.addmm,
        aten.baddbmm,
        aten.gelu_backward,
        aten.linalg_vector_norm,
        aten.logsumexp,
        aten.native_batch_norm,
        aten.native_batch_norm_backward,
        aten.native_group_norm,
        aten.native_group_norm_backward,
        aten.native_layer_norm,
        aten.native_layer_norm_backward,
        aten.silu_backward,
    ]
) | {
    aten.mean.default: mean,
    aten.mean.dim: mean,
    aten.var.correction: variance,
    aten.var_mean.correction: variance_and_mean,
    prims.var.default: variance,
}

# Operations that select, move or compare numbers; a trailing underscore is ignored.
EXACT = """
_to_copy _unsafe_index _unsafe_view abs all amax amin any arange argmax argmin as_strided bernoulli broadcast_in_dim
cat clamp clamp_max clamp_min clone col2im constant_pad_nd convert_element_type copy detach diagonal_backward empty
empty_like empty_strided expand eye fill flip full full_like gather im2col index index_select is_all_true linspace
masked_fill max max_pool2d_with_indices maximum min minimum neg new_empty new_empty_strided new_full new_ones
new_zeros ones ones_like randn reflection_pad2d relu repeat resize roll scalar_tensor select_backward select_scatter
set sgn sign slice_backward slice_scatter sort stack threshold_backward topk tril triu unfold upsample_nearest2d where
zero zeros zeros_like
"""
FUNCTIONS = "cos erf exp exp2 expm1 gelu log log1p log2 pow rsqrt sigmoid silu sin softplus tan tanh"
AVERAGES = """
_adaptive_avg_pool2d _adaptive_avg_pool2d_backward avg_pool2d avg_pool2d_backward
upsample_bilinear2d upsample_bilinear2d_backward
"""
EXACT, FUNCTIONS, AVERAGES = set(EXACT.split()), set(FUNCTIONS.split()), set(AVERAGES.split())
SCATTERED = {"index_add", "index_add_", "scatter_add", "scatter_add_", "index_put", "index_put_"}
SCATTERED |= {"_index_put_impl_", "_unsafe_index_put"}
SUMS = {
    **dict.fromkeys(("bmm", "mm", "mv", "dot"), of_product),
    **dict.fromkeys(SCATTERED, of_scattered),
    **dict.fromkeys(AVERAGES, of_average),
    "convolution": of_convolution,
    "convolution_backward": of_convolution_backward,
    "sum": of_sum,
}
