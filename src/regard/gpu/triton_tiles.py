"""Triton functions that the kernels of all mechanisms share: rows of tensors in tiles, and their products.

A tile of rows has its channels in one or two parts, `WIDTH` and `REST` wide (`launch.split_channels`). Where `REST` is
0, the second part is the first one, and nothing is computed with it.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(pointer, offsets, inside, step, DIM: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """Load the rows at `offsets`, `[rows, WIDTH]` and `[rows, REST]`; zeros where `inside` is false.

    Args:
        pointer: to the tensor.
        offsets: of each row's first channel, in elements.
        inside: which rows exist.
        step: between channels, in elements.
        DIM: channels of a row; WIDTH and REST cover them.
        WIDTH: of the first part.
        REST: of the second part, 0 if there is none.
    """
    channels = tl.arange(0, WIDTH)
    places = pointer + offsets[:, None] + channels[None, :] * step
    if WIDTH <= DIM:
        first = tl.load(places, mask=inside[:, None], other=0.0)
    else:
        first = tl.load(places, mask=inside[:, None] & (channels < DIM)[None, :], other=0.0)
    second = first
    if REST > 0:
        channels = WIDTH + tl.arange(0, REST)
        places = pointer + offsets[:, None] + channels[None, :] * step
        if WIDTH + REST <= DIM:
            second = tl.load(places, mask=inside[:, None], other=0.0)
        else:
            second = tl.load(places, mask=inside[:, None] & (channels < DIM)[None, :], other=0.0)
    return first, second


@triton.jit
def store_rows(
    pointer, offsets, inside, step, first, second, DIM: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr
):
    """Store what `load_rows` would load, rounded to the tensor's dtype."""
    channels = tl.arange(0, WIDTH)
    places = pointer + offsets[:, None] + channels[None, :] * step
    tl.store(places, first.to(pointer.dtype.element_ty), mask=inside[:, None] & (channels < DIM)[None, :])
    if REST > 0:
        channels = WIDTH + tl.arange(0, REST)
        places = pointer + offsets[:, None] + channels[None, :] * step
        tl.store(places, second.to(pointer.dtype.element_ty), mask=inside[:, None] & (channels < DIM)[None, :])


@triton.jit
def zero_rows(ROWS: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """Return float32 zeros in the form of `load_rows`."""
    first = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    second = first
    if REST > 0:
        second = tl.zeros([ROWS, REST], dtype=tl.float32)
    return first, second


@triton.jit
def row_products(a, a_rest, b, b_rest, REST: tl.constexpr, PRECISION: tl.constexpr):
    """Multiply every row of one tile with every row of another: `[rows of a, rows of b]`, float32."""
    products = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    if REST > 0:
        products = tl.dot(a_rest, tl.trans(b_rest), products, input_precision=PRECISION)
    return products


@triton.jit
def add_weighted(weights, rows, rest, total, total_rest, REST: tl.constexpr, PRECISION: tl.constexpr):
    """Add the sums of `rows` with `weights`, `[rows of the total, rows]`, to a total in two parts."""
    weights = weights.to(rows.dtype)
    total = tl.dot(weights, rows, total, input_precision=PRECISION)
    if REST > 0:
        total_rest = tl.dot(weights, rest, total_rest, input_precision=PRECISION)
    else:
        total_rest = total
    return total, total_rest
