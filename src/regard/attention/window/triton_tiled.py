"""The GPU kernels of window attention for windows of several tiles, in Triton.

A tile of queries meets the tiles of keys of its window one after another. Programs of the heads of a window are
adjacent, since their tokens share cache lines. The gradient of the bias has a pass of its own, whose programs add up
the gradients of the logits of a pair of tiles over a chunk of windows.
"""

import triton
import triton.language as tl

from regard.attention.window.triton_geometry import (
    load_bias,
    load_tokens,
    logits_of,
    places_of,
    regions_of,
    store_tokens,
    window_at,
)
from regard.gpu.triton_tiles import add_weighted, row_products, scaled, zero_rows


@triton.jit
def _tile_of(program, heads, WINDOW: tl.constexpr, TILE: tl.constexpr):
    """Return the head, the window and the tokens that a program works on."""
    tiles: tl.constexpr = (WINDOW[0] * WINDOW[1] * WINDOW[2] + TILE - 1) // TILE
    head, rest = program % heads, program // heads
    return head, rest // tiles, rest % tiles * TILE + tl.arange(0, TILE)


@triton.jit
def _biases(bias, head, queries, keys, WINDOW: tl.constexpr):
    """Return the biases of pairs of tokens; None without a table."""
    biases = None
    if bias is not None:
        biases = load_bias(bias, head, queries, keys, WINDOW)
    return biases


@triton.jit
def _seen(row_region, column_region, MASKED: tl.constexpr):
    """Return which pairs of tokens see one another; None if all do."""
    seen = None
    if MASKED:
        seen = row_region[:, None] == column_region[None, :]
    return seen


@triton.jit
def _finite(largest):
    """Return the largest logits; 0 for queries that have seen no key, since -inf minus -inf is NaN."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def _grads_of(weights, grads, mean, seen):
    """Return the gradients of the logits, from those of the weights and their weighted mean per query."""
    grads = weights * (grads - mean)
    if seen is not None:
        grads = tl.where(seen, grads, 0.0)
    return grads


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
    scale,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Fill the output of one tile of queries."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    MASKED: tl.constexpr = SHIFTED or TOKENS % QUERIES > 0 or TOKENS % KEYS > 0
    head, window, queries = _tile_of(tl.program_id(0), heads, WINDOW, QUERIES)
    inside = queries < TOKENS
    batch, first = window_at(window, length, WINDOW)
    query_places = places_of(queries, first, shift, length, WINDOW, SHIFTED)
    query_region = regions_of(queries, first, shift, length, WINDOW, SHIFTED)
    q = load_tokens(query, query_strides, batch, head, query_places, inside, SIZES, KEEP)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    o = zero_rows(QUERIES, VALUE_SIZES)
    for start in range(0, TOKENS, KEYS):
        keys = start + tl.arange(0, KEYS)
        places = places_of(keys, first, shift, length, WINDOW, SHIFTED)
        region = regions_of(keys, first, shift, length, WINDOW, SHIFTED)
        k = load_tokens(key, key_strides, batch, head, places, keys < TOKENS, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, keys < TOKENS, VALUE_SIZES, KEEP)
        biases = _biases(bias, head, queries[:, None], keys[None, :], WINDOW)
        logits = logits_of(q, k, biases, _seen(query_region, region, MASKED), scale, SIZES, KEEP, PRECISION)
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - _finite(larger)[:, None])
        shrink = tl.exp2(largest - _finite(larger))
        total = total * shrink + tl.sum(weights, 1)
        o = add_weighted(weights, v, scaled(o, shrink[:, None]), VALUE_SIZES, KEEP, PRECISION)
        largest = larger
    inverse = 1.0 / tl.where(inside, total, 1.0)[:, None]
    store_tokens(out, out_strides, batch, head, query_places, inside, scaled(o, inverse), VALUE_SIZES)


@triton.jit
def backward_queries(
    query,
    key,
    value,
    bias,
    grad_out,
    grad_query,
    lse,
    mean,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    grad_query_strides,
    length,
    shift,
    heads,
    scale,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Fill the gradient of one tile of queries, their log-sum-exps, and the means of their weights' gradients."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    MASKED: tl.constexpr = SHIFTED or TOKENS % QUERIES > 0 or TOKENS % KEYS > 0
    head, window, queries = _tile_of(tl.program_id(0), heads, WINDOW, QUERIES)
    inside = queries < TOKENS
    batch, first = window_at(window, length, WINDOW)
    query_places = places_of(queries, first, shift, length, WINDOW, SHIFTED)
    query_region = regions_of(queries, first, shift, length, WINDOW, SHIFTED)
    q = load_tokens(query, query_strides, batch, head, query_places, inside, SIZES, KEEP)
    g = load_tokens(grad_out, grad_out_strides, batch, head, query_places, inside, VALUE_SIZES, KEEP)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    products = tl.zeros([QUERIES], tl.float32)
    for start in range(0, TOKENS, KEYS):
        keys = start + tl.arange(0, KEYS)
        places = places_of(keys, first, shift, length, WINDOW, SHIFTED)
        region = regions_of(keys, first, shift, length, WINDOW, SHIFTED)
        k = load_tokens(key, key_strides, batch, head, places, keys < TOKENS, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, keys < TOKENS, VALUE_SIZES, KEEP)
        biases = _biases(bias, head, queries[:, None], keys[None, :], WINDOW)
        logits = logits_of(q, k, biases, _seen(query_region, region, MASKED), scale, SIZES, KEEP, PRECISION)
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - _finite(larger)[:, None])
        shrink = tl.exp2(largest - _finite(larger))
        total = total * shrink + tl.sum(weights, 1)
        weights *= row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
        products = products * shrink + tl.sum(weights, 1)
        largest = larger
    total = tl.where(inside, total, 1.0)
    log_sum, products = _finite(largest) + tl.log2(total), products / total
    rows = (window.to(tl.int64) * heads + head) * TOKENS + queries
    tl.store(lse + rows, log_sum, mask=inside)
    tl.store(mean + rows, products, mask=inside)

    d = zero_rows(QUERIES, SIZES)
    for start in range(0, TOKENS, KEYS):
        keys = start + tl.arange(0, KEYS)
        places = places_of(keys, first, shift, length, WINDOW, SHIFTED)
        region = regions_of(keys, first, shift, length, WINDOW, SHIFTED)
        k = load_tokens(key, key_strides, batch, head, places, keys < TOKENS, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, keys < TOKENS, VALUE_SIZES, KEEP)
        biases, seen = _biases(bias, head, queries[:, None], keys[None, :], WINDOW), _seen(query_region, region, MASKED)
        weights = tl.exp2(logits_of(q, k, biases, seen, scale, SIZES, KEEP, PRECISION) - log_sum[:, None])
        grads = row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
        grads = _grads_of(weights, grads, products[:, None], seen)
        d = add_weighted(grads, k, d, SIZES, KEEP, PRECISION)
    store_tokens(grad_query, grad_query_strides, batch, head, query_places, inside, scaled(d, scale), SIZES)


@triton.jit
def backward_keys(
    query,
    key,
    value,
    bias,
    grad_out,
    grad_key,
    grad_value,
    lse,
    mean,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    grad_key_strides,
    grad_value_strides,
    length,
    shift,
    heads,
    scale,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Fill the gradients of one tile of keys and values. Tiles of pairs are `[keys, queries]`."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    MASKED: tl.constexpr = SHIFTED or TOKENS % QUERIES > 0 or TOKENS % KEYS > 0
    head, window, keys = _tile_of(tl.program_id(0), heads, WINDOW, KEYS)
    inside = keys < TOKENS
    batch, first = window_at(window, length, WINDOW)
    key_places = places_of(keys, first, shift, length, WINDOW, SHIFTED)
    key_region = regions_of(keys, first, shift, length, WINDOW, SHIFTED)
    k = load_tokens(key, key_strides, batch, head, key_places, inside, SIZES, KEEP)
    v = load_tokens(value, value_strides, batch, head, key_places, inside, VALUE_SIZES, KEEP)
    lse += (window.to(tl.int64) * heads + head) * TOKENS
    mean += (window.to(tl.int64) * heads + head) * TOKENS
    dk = zero_rows(KEYS, SIZES)
    dv = zero_rows(KEYS, VALUE_SIZES)
    for start in range(0, TOKENS, QUERIES):
        queries = start + tl.arange(0, QUERIES)
        places = places_of(queries, first, shift, length, WINDOW, SHIFTED)
        region = regions_of(queries, first, shift, length, WINDOW, SHIFTED)
        q = load_tokens(query, query_strides, batch, head, places, queries < TOKENS, SIZES, KEEP)
        g = load_tokens(grad_out, grad_out_strides, batch, head, places, queries < TOKENS, VALUE_SIZES, KEEP)
        log_sum = tl.load(lse + queries, mask=queries < TOKENS, other=0.0)
        means = tl.load(mean + queries, mask=queries < TOKENS, other=0.0)
        biases, seen = _biases(bias, head, queries[None, :], keys[:, None], WINDOW), _seen(key_region, region, MASKED)
        weights = tl.exp2(logits_of(k, q, biases, seen, scale, SIZES, KEEP, PRECISION) - log_sum[None, :])
        dv = add_weighted(weights, g, dv, VALUE_SIZES, KEEP, PRECISION)
        grads = row_products(v, g, VALUE_SIZES, KEEP, PRECISION)
        grads = _grads_of(weights, grads, means[None, :], seen)
        dk = add_weighted(grads, q, dk, SIZES, KEEP, PRECISION)
    store_tokens(grad_value, grad_value_strides, batch, head, key_places, inside, dv, VALUE_SIZES)
    store_tokens(grad_key, grad_key_strides, batch, head, key_places, inside, scaled(dk, scale), SIZES)


@triton.jit
def backward_logits(
    query,
    key,
    value,
    bias,
    grad_out,
    partial,
    lse,
    mean,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    length,
    shift,
    heads,
    scale,
    first_head,
    some_heads,
    windows,
    chunks,
    WINDOW: tl.constexpr,
    SHIFTED: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Add up the gradients of the logits of a pair of tiles over every `chunks`-th window, for `some_heads` heads."""
    TOKENS: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    MASKED: tl.constexpr = SHIFTED or TOKENS % QUERIES > 0 or TOKENS % KEYS > 0
    key_tiles: tl.constexpr = (TOKENS + KEYS - 1) // KEYS
    place, rest, queries = _tile_of(tl.program_id(0), some_heads, WINDOW, QUERIES)
    keys = rest % key_tiles * KEYS + tl.arange(0, KEYS)
    chunk, head = rest // key_tiles, first_head + place
    biases = _biases(bias, head, queries[:, None], keys[None, :], WINDOW)
    totals = tl.zeros([QUERIES, KEYS], tl.float32)
    for turn in range(tl.cdiv(windows - chunk, chunks)):
        window = chunk + turn * chunks
        batch, first = window_at(window, length, WINDOW)
        places = places_of(queries, first, shift, length, WINDOW, SHIFTED)
        query_region = regions_of(queries, first, shift, length, WINDOW, SHIFTED)
        q = load_tokens(query, query_strides, batch, head, places, queries < TOKENS, SIZES, KEEP)
        g = load_tokens(grad_out, grad_out_strides, batch, head, places, queries < TOKENS, VALUE_SIZES, KEEP)
        places = places_of(keys, first, shift, length, WINDOW, SHIFTED)
        region = regions_of(keys, first, shift, length, WINDOW, SHIFTED)
        k = load_tokens(key, key_strides, batch, head, places, keys < TOKENS, SIZES, KEEP)
        v = load_tokens(value, value_strides, batch, head, places, keys < TOKENS, VALUE_SIZES, KEEP)
        rows = (window.to(tl.int64) * heads + head) * TOKENS + queries
        log_sum = tl.load(lse + rows, mask=queries < TOKENS, other=0.0)
        means = tl.load(mean + rows, mask=queries < TOKENS, other=0.0)
        seen = _seen(query_region, region, MASKED)
        weights = tl.exp2(logits_of(q, k, biases, seen, scale, SIZES, KEEP, PRECISION) - log_sum[:, None])
        grads = row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
        totals += _grads_of(weights, grads, means[:, None], seen)
    rows = ((place.to(tl.int64) * chunks + chunk) * TOKENS + queries) * TOKENS + rest % key_tiles * KEYS
    inside = (queries < TOKENS)[:, None] & (keys < TOKENS)[None, :]
    tl.store(partial + rows[:, None] + tl.arange(0, KEYS)[None, :], totals, mask=inside)
