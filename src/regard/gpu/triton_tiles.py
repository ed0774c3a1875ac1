"""Triton functions that the kernels of all mechanisms share: rows of tensors in tiles, and their products.

`SIZES` are the channels of a row and the widths of the parts that it is taken in (`launch.sizes`): powers of 2, all but
the last of them equal. Where `KEEP` is true, a tile of rows is a tuple of parts, `[rows, width]`. Where it is false, a
tile is what its rows are loaded from, a part at a time, whenever they are used: tensor cores take rows of float32 in so
many registers that tiles of large heads would be spilled to memory.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(pointer, offsets, inside, step, SIZES: tl.constexpr, KEEP: tl.constexpr):
    """Load the rows at `offsets`; zeros where `inside` is false.

    Args:
        pointer: to the tensor.
        offsets: of each row's first channel, in elements.
        inside: which rows exist.
        step: between channels, in elements.
        SIZES: of a row and its parts.
        KEEP: whether to load them here.
    """
    tile = pointer, offsets, inside, step
    if KEEP:
        rows = ()
        for part in tl.static_range(len(SIZES) - 1):
            rows = rows + (rows_part(tile, part, SIZES, False),)
        return rows
    else:
        return tile


@triton.jit
def rows_part(tile, part: tl.constexpr, SIZES: tl.constexpr, KEEP: tl.constexpr):
    """Return a part of a tile of rows."""
    if KEEP:
        return tile[part]
    else:
        WIDTH: tl.constexpr = SIZES[part + 1]
        IS_WHOLE: tl.constexpr = part * SIZES[1] + WIDTH <= SIZES[0]
        return _load(tile, part * SIZES[1], WIDTH, IS_WHOLE, SIZES)


@triton.jit
def _load(tile, begin, WIDTH: tl.constexpr, IS_WHOLE: tl.constexpr, SIZES: tl.constexpr):
    channels = begin + tl.arange(0, WIDTH)
    places = tile[0] + tile[1][:, None] + _steps(channels, tile[1], tile[3])[None, :]
    mask = tile[2][:, None]
    if not IS_WHOLE:
        mask = mask & (channels < SIZES[0])[None, :]
    return tl.load(places, mask=mask, other=0.0)


@triton.jit
def _steps(channels, offsets, step):
    """Return the offsets of channels, in 64 bits where those of rows are."""
    return channels.to(offsets.dtype) * step


@triton.jit
def store_rows(pointer, offsets, inside, step, rows, SIZES: tl.constexpr):
    """Store what `load_rows` would load, a tuple of parts, rounded to the tensor's dtype."""
    for part in tl.static_range(len(SIZES) - 1):
        channels = part * SIZES[1] + tl.arange(0, SIZES[part + 1])
        places = pointer + offsets[:, None] + _steps(channels, offsets, step)[None, :]
        mask = inside[:, None] & (channels < SIZES[0])[None, :]
        tl.store(places, rows[part].to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def zero_rows(ROWS: tl.constexpr, SIZES: tl.constexpr):
    """Return float32 zeros, a tuple of parts."""
    rows = ()
    for part in tl.static_range(len(SIZES) - 1):
        rows = rows + (tl.full([ROWS, SIZES[part + 1]], 0.0, tl.float32),)
    return rows


@triton.jit
def scaled(rows, factor):
    """Multiply a tuple of parts with a number, or with one per row, laid out for broadcasting."""
    found = ()
    for part in tl.static_range(len(rows)):
        found = found + (rows[part] * factor,)
    return found


@triton.jit
def row_products(a, b, SIZES: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Multiply every row of one tile with every row of another: `[rows of a, rows of b]`, float32."""
    if KEEP or len(SIZES) == 2:
        first, other = rows_part(a, 0, SIZES, KEEP), rows_part(b, 0, SIZES, KEEP)
        products = tl.dot(first, tl.trans(other), input_precision=PRECISION)
        for part in tl.static_range(1, len(SIZES) - 1):
            products = tl.dot(a[part], tl.trans(b[part]), products, input_precision=PRECISION)
    else:
        products = tl.zeros([a[1].shape[0], b[1].shape[0]], tl.float32)
        WIDTH: tl.constexpr = SIZES[1]
        for begin in range(0, SIZES[0], SIZES[1]):
            first, other = _load(a, begin, WIDTH, False, SIZES), _load(b, begin, WIDTH, False, SIZES)
            products = tl.dot(first, tl.trans(other), products, input_precision=PRECISION)
    return products


@triton.jit
def row_sums(a, b, SIZES: tl.constexpr, KEEP: tl.constexpr):
    """Multiply every row of one tile with the same row of another: `[rows]`, float32."""
    first, other = rows_part(a, 0, SIZES, KEEP), rows_part(b, 0, SIZES, KEEP)
    sums = tl.sum(first.to(tl.float32) * other.to(tl.float32), 1)
    for part in tl.static_range(1, len(SIZES) - 1):
        first, other = rows_part(a, part, SIZES, KEEP), rows_part(b, part, SIZES, KEEP)
        sums += tl.sum(first.to(tl.float32) * other.to(tl.float32), 1)
    return sums


@triton.jit
def add_weighted(weights, rows, totals, SIZES: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Add the sums of a tile's rows with `weights`, `[rows of the totals, rows]`, to totals, a tuple of parts."""
    found = ()
    for part in tl.static_range(len(SIZES) - 1):
        own = rows_part(rows, part, SIZES, KEEP)
        found = found + (tl.dot(weights.to(own.dtype), own, totals[part], input_precision=PRECISION),)
    return found
