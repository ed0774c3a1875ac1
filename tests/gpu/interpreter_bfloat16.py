"""Correct bfloat16 in Triton's interpreter, which multiplies its matrices as if they held integers of 16 bits."""

import numpy
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype


def correct_bfloat16():
    """Compute operations of bfloat16 in float32, and round their results to nearest, ties to even."""
    own = {name: getattr(InterpreterBuilder, name) for name in ("create_dot", "cast_impl", "binary_op", "unary_op")}

    def create_dot(builder, a, b, total, precision, inexact):
        return own["create_dot"](builder, widened(a), widened(b), total, precision, inexact)

    def cast_impl(builder, source, dtype):
        if dtype.scalar != tl.bfloat16:
            return own["cast_impl"](builder, widened(source), dtype)
        return narrowed(own["cast_impl"](builder, widened(source), tl.float32))

    def binary_op(builder, a, b, operation):
        result = own["binary_op"](builder, widened(a), widened(b), operation)
        return narrowed(result) if is_bfloat16(a) and result.data.dtype == numpy.float32 else result

    def unary_op(builder, operand, operation):
        result = own["unary_op"](builder, widened(operand), operation)
        return narrowed(result) if is_bfloat16(operand) else result

    for name, corrected in {
        "create_dot": create_dot,
        "cast_impl": cast_impl,
        "create_fp_to_fp": lambda builder, source, dtype, _: cast_impl(builder, source, dtype),
        "binary_op": binary_op,
        "unary_op": unary_op,
    }.items():
        setattr(InterpreterBuilder, name, corrected)


def is_bfloat16(handle):
    return handle.dtype.scalar == tl.bfloat16


def widened(handle):
    """Return a tensor in float32 where it is in bfloat16."""
    if not is_bfloat16(handle):
        return handle
    return TensorHandle((handle.data.astype(numpy.uint32) << 16).view(numpy.float32), tl.float32)


def narrowed(handle):
    """Return a float32 tensor in bfloat16."""
    bits = handle.data.astype(numpy.float32).view(numpy.uint32).astype(numpy.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    rounded = numpy.where(numpy.isnan(handle.data), 0x7FC0, rounded)
    return TensorHandle(rounded.astype(_get_np_dtype(tl.bfloat16)), tl.bfloat16)
