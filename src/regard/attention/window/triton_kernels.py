"""The GPU kernels of window attention for windows that fit one tile, in Triton, and the sum of the bias' gradient.

A program works on one head in a chunk of windows. It loads the head's bias once, and adds up the gradients of the
head's logits in registers. Programs of the heads of a window are adjacent, since their tokens share cache lines.
"""

import triton
import triton.language as tl

from regard.attention.window.triton_geometry import (
    cells_of,
    load_bias,
    load_tokens,
    logits_of,
    places_of,
    regions_of,
    store_tokens,
    window_at,
)
from regard.gpu.triton_tiles import add_weighted, row_products, scaled, store_rows, zero_rows


@triton.jit
def forward(
    query,
    key,
    value,
    bias,
    out,
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    length,
    shift,
    heads,
    windows,
    chunks,
    scale,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """Fill the output of one head in every `chunks`-th window."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    chunk, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    tokens = tl.arange(0, TILE)
    inside = tokens < TOKENS
    biases = None
    if bias is not None:
        biases = load_bias(bias, head, tokens[:, None], tokens[None, :], WINDOW)
    for turn in range(tl.cdiv(windows - chunk, chunks)):
        batch, first = window_at(chunk + turn * chunks, length, WINDOW)
        places = places_of(tokens, first, shift, length, WINDOW, SHIFTED)
        q = load_tokens(query, query_strides, batch, head, places, inside, SIZES, KEEP)
        k = load_tokens(key, key_strides, batch, head, places, inside, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, inside, VALUE_SIZES, KEEP)
        seen = None
        if SHIFTED or TILE > TOKENS:
            region = regions_of(tokens, first, shift, length, WINDOW, SHIFTED)
            seen = region[:, None] == region[None, :]
        logits = logits_of(q, k, biases, seen, scale, SIZES, KEEP, PRECISION)
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        inverse = 1.0 / tl.sum(weights, 1)[:, None]
        o = zero_rows(TILE, VALUE_SIZES)
        o = add_weighted(weights, v, o, VALUE_SIZES, KEEP, PRECISION)
        store_tokens(out, out_strides, batch, head, places, inside, scaled(o, inverse), VALUE_SIZES)


@triton.jit
def backward(
    query,
    key,
    value,
    bias,
    grad_out,
    grad_query,
    grad_key,
    grad_value,
    partial,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    grad_query_strides,
    grad_key_strides,
    grad_value_strides,
    length,
    shift,
    heads,
    windows,
    chunks,
    scale,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """Fill the gradients of one head in every `chunks`-th window, and the sum of these windows' gradients of logits."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    chunk, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    tokens = tl.arange(0, TILE)
    inside = tokens < TOKENS
    biases = None
    if bias is not None:
        biases = load_bias(bias, head, tokens[:, None], tokens[None, :], WINDOW)
        totals = tl.zeros([TILE, TILE], tl.float32)
    for turn in range(tl.cdiv(windows - chunk, chunks)):
        batch, first = window_at(chunk + turn * chunks, length, WINDOW)
        places = places_of(tokens, first, shift, length, WINDOW, SHIFTED)
        q = load_tokens(query, query_strides, batch, head, places, inside, SIZES, KEEP)
        k = load_tokens(key, key_strides, batch, head, places, inside, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, inside, VALUE_SIZES, KEEP)
        g = load_tokens(grad_out, grad_out_strides, batch, head, places, inside, VALUE_SIZES, KEEP)
        seen = None
        if SHIFTED or TILE > TOKENS:
            region = regions_of(tokens, first, shift, length, WINDOW, SHIFTED)
            seen = region[:, None] == region[None, :]
        logits = logits_of(q, k, biases, seen, scale, SIZES, KEEP, PRECISION)
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        weights *= 1.0 / tl.sum(weights, 1)[:, None]
        grads = row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
        grads = weights * (grads - tl.sum(weights * grads, 1)[:, None])
        if seen is not None:
            grads = tl.where(seen, grads, 0.0)
        if TILE > TOKENS:  # rows beyond the window may have NaN for weights, and NaN * 0 is NaN
            weights = tl.where(inside[:, None], weights, 0.0)
        if bias is not None:
            totals += grads

        weights, grads = weights.to(query.dtype.element_ty), grads.to(query.dtype.element_ty)
        d = zero_rows(TILE, VALUE_SIZES)
        d = add_weighted(tl.trans(weights), g, d, VALUE_SIZES, KEEP, PRECISION)
        store_tokens(grad_value, grad_value_strides, batch, head, places, inside, d, VALUE_SIZES)
        d = zero_rows(TILE, SIZES)
        d = add_weighted(tl.trans(grads), q, d, SIZES, KEEP, PRECISION)
        store_tokens(grad_key, grad_key_strides, batch, head, places, inside, scaled(d, scale), SIZES)
        d = zero_rows(TILE, SIZES)
        d = add_weighted(grads, k, d, SIZES, KEEP, PRECISION)
        store_tokens(grad_query, grad_query_strides, batch, head, places, inside, scaled(d, scale), SIZES)
    if bias is not None:
        rows = (head.to(tl.int64) * chunks + chunk) * TOKENS + tokens
        store_rows(partial, rows * TOKENS, inside, 1, (totals,), (TOKENS, TILE))


@triton.jit
def sum_by_offset(
    partial,
    grad_bias,
    first_head,
    chunks,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Add up the gradients of the logits of all pairs that share an entry of the bias table.

    Args:
        partial: gradients of logits, `[heads, chunks, queries, keys]`.
        grad_bias: of all heads, contiguous.
        first_head: of `partial`.
        chunks: of windows, whose gradients are added up, too.
        WINDOW: tokens per axis.
        ROWS: queries of chunks that are read at a time.
        ENTRIES: of the table, per program.
    """
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TABLE: tl.constexpr = (2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
    blocks: tl.constexpr = (TABLE + ENTRIES - 1) // ENTRIES
    head = (tl.program_id(0) // blocks).to(tl.int64)
    entry = tl.program_id(0) % blocks * ENTRIES + tl.arange(0, ENTRIES)
    step_0 = (entry // ((2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)) - (WINDOW[0] - 1))[None, :]
    step_1 = (entry // (2 * WINDOW[2] - 1) % (2 * WINDOW[1] - 1) - (WINDOW[1] - 1))[None, :]
    step_2 = (entry % (2 * WINDOW[2] - 1) - (WINDOW[2] - 1))[None, :]
    step = (step_0 * WINDOW[1] + step_1) * WINDOW[2] + step_2
    partial += head * chunks * TOKENS * TOKENS
    totals = tl.zeros([ROWS, ENTRIES], tl.float32)
    for start in range(0, chunks * TOKENS, ROWS):
        row = start + tl.arange(0, ROWS)
        cells = cells_of(row % TOKENS, WINDOW)
        inside = (row < chunks * TOKENS)[:, None] & (entry < TABLE)[None, :]
        key_0, key_1, key_2 = cells[0][:, None] + step_0, cells[1][:, None] + step_1, cells[2][:, None] + step_2
        inside = inside & (key_1 >= 0) & (key_1 < WINDOW[1]) & (key_2 >= 0) & (key_2 < WINDOW[2])
        if WINDOW[0] > 1:
            inside = inside & (key_0 >= 0) & (key_0 < WINDOW[0])
        places = (row.to(tl.int64) * TOKENS + row % TOKENS)[:, None] + step
        totals += tl.load(partial + places, mask=inside, other=0.0)
    places = (first_head + head) * TABLE + entry
    tl.store(grad_bias + places, tl.sum(totals, 0).to(grad_bias.dtype.element_ty), mask=entry < TABLE)
