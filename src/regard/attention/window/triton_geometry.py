"""Where the tokens of a window are, and which of them see one another: what all window kernels share, in Triton.

Kernels see three grid axes; missing axes come first and have length 1, window 1 and shift 0. Tokens of a window are
numbered with the last axis fastest. `SIZES` are those of `load_rows`.
"""

import triton
import triton.language as tl

from regard.gpu.triton_tiles import load_rows, row_products, store_rows

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def window_at(index, length, WINDOW: tl.constexpr):
    """Return the batch entry of a window, and its first position per axis before the shift."""
    count_0, count_1, count_2 = length[0] // WINDOW[0], length[1] // WINDOW[1], length[2] // WINDOW[2]
    rest = index // count_2
    first = (rest // count_1 % count_0 * WINDOW[0], rest % count_1 * WINDOW[1], index % count_2 * WINDOW[2])
    return rest // count_1 // count_0, first


@triton.jit
def cells_of(tokens, WINDOW: tl.constexpr):
    """Return the coordinates of tokens within their window."""
    return tokens // (WINDOW[1] * WINDOW[2]), tokens // WINDOW[2] % WINDOW[1], tokens % WINDOW[2]


@triton.jit
def places_of(tokens, first, shift, length, WINDOW: tl.constexpr, SHIFTED: tl.constexpr):
    """Return the coordinates of a window's tokens in the grid."""
    cells = cells_of(tokens, WINDOW)
    place_0, place_1, place_2 = first[0] + cells[0], first[1] + cells[1], first[2] + cells[2]
    if SHIFTED:
        place_0, place_1, place_2 = place_0 + shift[0], place_1 + shift[1], place_2 + shift[2]
        place_0 = tl.where(place_0 < length[0], place_0, place_0 - length[0])
        place_1 = tl.where(place_1 < length[1], place_1, place_1 - length[1])
        place_2 = tl.where(place_2 < length[2], place_2, place_2 - length[2])
    return place_0, place_1, place_2


@triton.jit
def regions_of(tokens, first, shift, length, WINDOW: tl.constexpr, SHIFTED: tl.constexpr):
    """Return the regions of a window's tokens: only tokens of the same region see one another.

    A region has a bit per axis: whether the shift has carried the token across the border. Rows of a tile beyond the
    last token have a region of their own.
    """
    region = tl.where(tokens < WINDOW[0] * WINDOW[1] * WINDOW[2], 0, 8)
    if SHIFTED:
        cells = cells_of(tokens, WINDOW)
        region += (cells[0] >= WINDOW[0] - shift[0]).to(tl.int32) * 4
        region += (cells[1] >= WINDOW[1] - shift[1]).to(tl.int32) * 2
        region += (cells[2] >= WINDOW[2] - shift[2]).to(tl.int32)
        border = (first[0] + WINDOW[0] >= length[0]).to(tl.int32) * 4  # only the last windows have carried tokens
        border += (first[1] + WINDOW[1] >= length[1]).to(tl.int32) * 2
        border += (first[2] + WINDOW[2] >= length[2]).to(tl.int32)
        region = region & (border + 8)
    return region


@triton.jit
def _offsets(batch, head, places, strides):
    offsets = batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[4]
    offsets += places[0].to(tl.int64) * strides[1]
    offsets += places[1].to(tl.int64) * strides[2]
    return offsets + places[2].to(tl.int64) * strides[3]


@triton.jit
def load_tokens(pointer, strides, batch, head, places, inside, SIZES: tl.constexpr, KEEP: tl.constexpr):
    """Load tokens of a head, in the form of `load_rows`."""
    offsets = _offsets(batch, head, places, strides)
    return load_rows(pointer, offsets, inside, strides[5], SIZES, KEEP)


@triton.jit
def store_tokens(pointer, strides, batch, head, places, inside, rows, SIZES: tl.constexpr):
    """Store what `load_tokens` would load."""
    offsets = _offsets(batch, head, places, strides)
    store_rows(pointer, offsets, inside, strides[5], rows, SIZES)


@triton.jit
def load_bias(bias, head, queries, keys, WINDOW: tl.constexpr):
    """Load the bias of pairs of tokens, in units of the exponent of 2; any values beyond the last token.

    Args:
        bias: the table, contiguous float32.
        head: of the table.
        queries: token numbers, laid out for broadcasting.
        keys: token numbers, laid out for broadcasting.
        WINDOW: tokens per axis.
    """
    entries: tl.constexpr = (2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
    return tl.load(bias + (head * entries + entries // 2) + (_flat(keys, WINDOW) - _flat(queries, WINDOW))) * LOG2_E


@triton.jit
def _flat(tokens, WINDOW: tl.constexpr):
    """Return numbers whose difference, key minus query, is the place in a head's bias table relative to its center."""
    tokens = tl.minimum(tokens, WINDOW[0] * WINDOW[1] * WINDOW[2] - 1)
    cells = cells_of(tokens, WINDOW)
    return (cells[0] * (2 * WINDOW[1] - 1) + cells[1]) * (2 * WINDOW[2] - 1) + cells[2]


@triton.jit
def logits_of(rows, columns, biases, seen, scale, SIZES: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Return the logits of pairs in units of the exponent of 2; -inf where a query does not see a key.

    Args:
        rows: queries or keys, as `load_tokens` returns them.
        columns: keys or queries.
        biases: of all pairs, or None.
        seen: which pairs see one another, or None if all do.
        scale: of the products.
        SIZES: of rows and columns.
        KEEP: as they are loaded.
        PRECISION: of products of float32.
    """
    logits = row_products(rows, columns, SIZES, KEEP, PRECISION) * (scale * LOG2_E)
    if biases is not None:
        logits += biases
    if seen is not None:
        logits = tl.where(seen, logits, float("-inf"))
    return logits
