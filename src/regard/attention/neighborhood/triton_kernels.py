"""The GPU kernels of neighborhood attention's output and of the tensors' gradients, in Triton.

Queries are processed in tiles of the grid's own rank, with the tiles of keys that cover the union of their
neighborhoods. Every result is written once, by one program: the query's gradient by a pass over queries, those of key
and value by a pass over keys. Logits are in units of the exponent of 2.
"""

import triton
import triton.language as tl

from regard.attention.neighborhood.triton_bias import LOG2_E, pair_bias
from regard.attention.neighborhood.triton_geometry import (
    aligned,
    all_seen,
    common_keys,
    exist,
    in_columns,
    in_rows,
    keys_of,
    load_members,
    members_of,
    origin,
    queries_of,
    row_offsets,
    seen,
    store_members,
    tile_at,
    tile_members,
    tiles_between,
    unravel,
    windows_of,
)
from regard.gpu.triton_tiles import add_weighted, row_products, row_sums, scaled, zero_rows


@triton.jit
def forward(
    query,
    key,
    value,
    bias,
    out,
    largest_logit,
    log_total,
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    statistics_strides,
    length,
    dilation,
    heads,
    scale,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    LEAD: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    CAN_BE_WHOLE: tl.constexpr,
):
    """Fill the output and the statistics of one tile of queries."""
    batch, head, groups, first = unravel(tl.program_id(0), heads, length, dilation, TILE, (0, 0, 0))
    members = members_of(groups, length, dilation)
    key += origin(batch, head, key_strides)
    value += origin(batch, head, value_strides)
    rows = tile_members(first, TILE)
    query += origin(batch, head, query_strides)
    q = load_members(query, rows, groups, members, dilation, query_strides, SIZES, KEEP, LARGE)
    starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
    starts, widths = in_rows(starts), in_rows(widths)
    low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    common_low, common_high = common_keys(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    if PLACES[0] > 0:
        low = aligned(low, KEYS, LEAD)
    tiles = tiles_between(first, members, low, high, KEYS)

    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = zero_rows(ROWS, VALUE_SIZES)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, KEYS)
        columns = tile_members(start, KEYS)
        k = load_members(key, columns, groups, members, dilation, key_strides, SIZES, KEEP, LARGE)
        logits = row_products(q, k, SIZES, KEEP, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            keys, queries = in_columns(columns), in_rows(rows)
            logits += pair_bias(bias, head, start, first, keys, queries, KERNEL, PLACES, STEP, FIRST, ROWS, COLUMNS)
        if CAN_BE_WHOLE:
            if not all_seen(start, common_low, common_high, KEYS, RANK):
                logits = tl.where(seen(in_columns(columns), starts, widths, RANK), logits, float("-inf"))
        else:
            logits = tl.where(seen(in_columns(columns), starts, widths, RANK), logits, float("-inf"))
        weights, shrink, largest, total = _weigh(logits, largest, total)
        v = load_members(value, columns, groups, members, dilation, value_strides, VALUE_SIZES, KEEP, LARGE)
        sums = add_weighted(weights, v, scaled(sums, shrink), VALUE_SIZES, KEEP, PRECISION)

    there = exist(rows, members)
    inverse = 1.0 / tl.where(there, total, 1.0)[:, None]
    out += origin(batch, head, out_strides)
    store_members(out, scaled(sums, inverse), rows, groups, members, dilation, out_strides, VALUE_SIZES, LARGE)
    places = origin(batch, head, statistics_strides) + row_offsets(rows, groups, dilation, statistics_strides, LARGE)
    tl.store(largest_logit + places, largest, mask=there)
    tl.store(log_total + places, tl.log2(total), mask=there)


@triton.jit
def _weigh(logits, largest, total):
    """Return the weights of a tile relative to the new largest logits, the factor on sums, and the new statistics."""
    larger = tl.maximum(largest, tl.max(logits, 1))
    finite = tl.where(larger == float("-inf"), 0.0, larger)
    weights = tl.exp2(logits - finite[:, None])
    shrink = tl.exp2(largest - finite)
    return weights, shrink[:, None], larger, total * shrink + tl.sum(weights, 1)


@triton.jit
def weights_and_gradients(logits, largest, log_total, grad_weights, delta, visible):
    """Return the weights of pairs and the gradients of their logits; 0 where a query does not see the key.

    Args:
        logits: and bias.
        largest: logit of each query, laid out for broadcasting. It is taken off first: with large logits, the logarithm
            of their sum is coarse.
        log_total: the logarithm of the sum relative to it.
        grad_weights: gradients of the weights.
        delta: the sums of weights times their gradients, laid out for broadcasting.
        visible: which queries see which keys.
    """
    weights = tl.exp2(tl.where(visible, (logits - largest) - log_total, float("-inf")))
    return weights, tl.where(visible, weights * (grad_weights - delta), 0.0)


@triton.jit
def backward_queries(
    query,
    key,
    value,
    bias,
    out,
    largest_logit,
    log_total,
    grad_out,
    grad_query,
    delta,
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    grad_out_strides,
    grad_query_strides,
    statistics_strides,
    length,
    dilation,
    heads,
    scale,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    LEAD: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Fill the query's gradient of one tile of queries, and `delta`, the sums of output times its gradient."""
    batch, head, groups, first = unravel(tl.program_id(0), heads, length, dilation, TILE, (0, 0, 0))
    members = members_of(groups, length, dilation)
    key += origin(batch, head, key_strides)
    value += origin(batch, head, value_strides)
    rows = tile_members(first, TILE)
    query += origin(batch, head, query_strides)
    q = load_members(query, rows, groups, members, dilation, query_strides, SIZES, KEEP, LARGE)
    grad_out += origin(batch, head, grad_out_strides)
    g = load_members(grad_out, rows, groups, members, dilation, grad_out_strides, VALUE_SIZES, KEEP, LARGE)
    out += origin(batch, head, out_strides)
    o = load_members(out, rows, groups, members, dilation, out_strides, VALUE_SIZES, KEEP, LARGE)
    row_delta = row_sums(o, g, VALUE_SIZES, KEEP)
    places = origin(batch, head, statistics_strides) + row_offsets(rows, groups, dilation, statistics_strides, LARGE)
    there = exist(rows, members)
    tl.store(delta + places, row_delta, mask=there)
    largest = tl.load(largest_logit + places, mask=there, other=0.0)[:, None]
    log_sum = tl.load(log_total + places, mask=there, other=0.0)[:, None]
    starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
    low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    if PLACES[0] > 0:
        low = aligned(low, KEYS, LEAD)
    tiles = tiles_between(first, members, low, high, KEYS)

    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    sums = zero_rows(ROWS, SIZES)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, KEYS)
        columns = tile_members(start, KEYS)
        k = load_members(key, columns, groups, members, dilation, key_strides, SIZES, KEEP, LARGE)
        v = load_members(value, columns, groups, members, dilation, value_strides, VALUE_SIZES, KEEP, LARGE)
        visible = seen(in_columns(columns), in_rows(starts), in_rows(widths), RANK)
        logits = row_products(q, k, SIZES, KEEP, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            keys, queries = in_columns(columns), in_rows(rows)
            logits += pair_bias(bias, head, start, first, keys, queries, KERNEL, PLACES, STEP, FIRST, ROWS, COLUMNS)
        grads = row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
        _, grads = weights_and_gradients(logits, largest, log_sum, grads, row_delta[:, None], visible)
        sums = add_weighted(grads, k, sums, SIZES, KEEP, PRECISION)
    grad_query += origin(batch, head, grad_query_strides)
    store_members(grad_query, scaled(sums, scale), rows, groups, members, dilation, grad_query_strides, SIZES, LARGE)


@triton.jit
def backward_keys(
    query,
    key,
    value,
    bias,
    largest_logit,
    log_total,
    delta,
    grad_out,
    grad_key,
    grad_value,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    grad_key_strides,
    grad_value_strides,
    statistics_strides,
    length,
    dilation,
    heads,
    scale,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    LEAD: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Fill the gradients of key and value of one tile of keys."""
    batch, head, groups, first = unravel(tl.program_id(0), heads, length, dilation, KEYS, LEAD)
    members = members_of(groups, length, dilation)
    query += origin(batch, head, query_strides)
    grad_out += origin(batch, head, grad_out_strides)
    statistics = origin(batch, head, statistics_strides)
    largest_logit, log_total, delta = largest_logit + statistics, log_total + statistics, delta + statistics
    rows = tile_members(first, KEYS)
    key += origin(batch, head, key_strides)
    k = load_members(key, rows, groups, members, dilation, key_strides, SIZES, KEEP, LARGE)
    value += origin(batch, head, value_strides)
    v = load_members(value, rows, groups, members, dilation, value_strides, VALUE_SIZES, KEEP, LARGE)
    low, high = queries_of(first, members, KEYS, KERNEL, STRIDE, CAUSAL)
    if PLACES[0] > 0:
        low = aligned(low, TILE, (0, 0, 0))
    tiles = tiles_between(first, members, low, high, TILE)

    ROWS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    COLUMNS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    key_sums = zero_rows(ROWS, SIZES)
    sums = zero_rows(ROWS, VALUE_SIZES)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, TILE)
        columns = tile_members(start, TILE)
        q = load_members(query, columns, groups, members, dilation, query_strides, SIZES, KEEP, LARGE)
        g = load_members(grad_out, columns, groups, members, dilation, grad_out_strides, VALUE_SIZES, KEEP, LARGE)
        places, here = row_offsets(columns, groups, dilation, statistics_strides, LARGE), exist(columns, members)
        largest = tl.load(largest_logit + places, mask=here, other=0.0)[None, :]
        log_sum = tl.load(log_total + places, mask=here, other=0.0)[None, :]
        means = tl.load(delta + places, mask=here, other=0.0)[None, :]
        starts, widths = windows_of(columns, members, KERNEL, STRIDE, CAUSAL)
        visible = seen(in_rows(rows), in_columns(starts), in_columns(widths), RANK)
        logits = _forward_products(q, k, SIZES, KEEP, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            keys, queries = in_rows(rows), in_columns(columns)
            logits += pair_bias(bias, head, first, start, keys, queries, KERNEL, PLACES, STEP, FIRST, ROWS, COLUMNS)
        grads = row_products(v, g, VALUE_SIZES, KEEP, PRECISION)
        weights, grads = weights_and_gradients(logits, largest, log_sum, grads, means, visible)
        sums = add_weighted(weights, g, sums, VALUE_SIZES, KEEP, PRECISION)
        key_sums = add_weighted(grads, q, key_sums, SIZES, KEEP, PRECISION)
    grad_key += origin(batch, head, grad_key_strides)
    store_members(grad_key, scaled(key_sums, scale), rows, groups, members, dilation, grad_key_strides, SIZES, LARGE)
    grad_value += origin(batch, head, grad_value_strides)
    store_members(grad_value, sums, rows, groups, members, dilation, grad_value_strides, VALUE_SIZES, LARGE)


@triton.jit
def _forward_products(q, k, SIZES: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Return the products of keys with queries, `[keys, queries]`.

    Those of float32, whose tiles are not kept, have the bits of the forward pass: an error of a large logit is an error
    of its weight.
    """
    if not KEEP:
        products = tl.trans(row_products(q, k, SIZES, KEEP, PRECISION))
    else:
        products = row_products(k, q, SIZES, KEEP, PRECISION)
    return products
