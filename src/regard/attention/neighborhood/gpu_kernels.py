"""The GPU kernels of neighborhood attention, in Triton.

Queries are processed in tiles of the grid's own rank, with the tiles of keys that cover the union of their neighborhoods.
Every result is written by one program, once: queries' gradients by a pass over queries, those of keys and values by a pass
over keys, and the bias' by a pass over the places that a tile of keys can have around a tile of queries.
"""

import triton
import triton.language as tl

from regard.attention.neighborhood.gpu_geometry import (
    aligned,
    all_seen,
    common_keys,
    exist,
    flat,
    in_columns,
    in_rows,
    keys_of,
    load_bias,
    load_expanded,
    members_of,
    origin,
    queries_of,
    row_offsets,
    seen,
    tile_at,
    tile_members,
    tiles_between,
    unravel,
    windows_of,
)
from regard.gpu.tiles import add_weighted, load_rows, row_products, store_rows, zero_rows

LOG2_E = tl.constexpr(1.4426950408889634)


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
    CAN_BE_WHOLE: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    REST: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_REST: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    EXPANDED: tl.constexpr,
    LEAD: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Fill the output and the statistics of one tile of queries; logits are in units of the exponent of 2."""
    batch, head, groups, first = unravel(tl.program_id(0), heads, length, dilation, TILE, (0, 0, 0))
    members = members_of(groups, length, dilation)
    query += origin(batch, head, query_strides)
    key += origin(batch, head, key_strides)
    value += origin(batch, head, value_strides)
    rows = tile_members(first, TILE)
    there = exist(rows, members)
    offsets = row_offsets(rows, groups, dilation, query_strides, LARGE)
    q, q_rest = load_rows(query, offsets, there, query_strides[5], DIM, WIDTH, REST)
    starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
    starts, widths, query_place = in_rows(starts), in_rows(widths), flat(rows, KERNEL)[:, None]
    low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    common_low, common_high = common_keys(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    if EXPANDED:
        low = aligned(low, KEYS, LEAD)
    tiles = tiles_between(low, high, KEYS)

    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums, sums_rest = zero_rows(ROWS, VALUE_WIDTH, VALUE_REST)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, KEYS)
        columns = tile_members(start, KEYS)
        here = exist(columns, members)
        places = row_offsets(columns, groups, dilation, key_strides, LARGE)
        k, k_rest = load_rows(key, places, here, key_strides[5], DIM, WIDTH, REST)
        logits = row_products(q, q_rest, k, k_rest, REST, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            visible = seen(in_columns(columns), starts, widths, RANK)
            if EXPANDED:
                logits += load_expanded(bias, head, start, first, PLACES, STEP, FIRST, ROWS, COLUMNS)
            else:
                logits += load_bias(bias, head, flat(columns, KERNEL)[None, :], query_place, visible, KERNEL)
            logits = tl.where(visible, logits, float("-inf"))
        elif CAN_BE_WHOLE:
            if not all_seen(start, common_low, common_high, KEYS, RANK):
                logits = tl.where(seen(in_columns(columns), starts, widths, RANK), logits, float("-inf"))
        else:
            logits = tl.where(seen(in_columns(columns), starts, widths, RANK), logits, float("-inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(logits - finite[:, None])
        shrink = tl.exp2(largest - finite)
        total = total * shrink + tl.sum(weights, 1)
        sums *= shrink[:, None]
        if VALUE_REST > 0:
            sums_rest *= shrink[:, None]
        places = row_offsets(columns, groups, dilation, value_strides, LARGE)
        v, v_rest = load_rows(value, places, here, value_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
        sums, sums_rest = add_weighted(weights, v, v_rest, sums, sums_rest, VALUE_REST, PRECISION)
        largest = larger

    out += origin(batch, head, out_strides)
    offsets = row_offsets(rows, groups, dilation, out_strides, LARGE)
    total = tl.where(there, total, 1.0)
    inverse = 1.0 / total[:, None]
    store_rows(
        out,
        offsets,
        there,
        out_strides[5],
        sums * inverse,
        sums_rest * inverse,
        VALUE_DIM,
        VALUE_WIDTH,
        VALUE_REST,
    )
    offsets = origin(batch, head, statistics_strides) + row_offsets(rows, groups, dilation, statistics_strides, LARGE)
    tl.store(largest_logit + offsets, largest, mask=there)
    tl.store(log_total + offsets, tl.log2(total), mask=there)


@triton.jit
def weights_and_gradients(
    logits,
    largest,
    log_total,
    grad_weights,
    delta,
    visible,
):
    """Return the weights of pairs and the gradients of their logits; 0 where a query does not see the key.

    Args:
        logits: and bias, in units of the exponent of 2.
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
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    REST: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_REST: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    EXPANDED: tl.constexpr,
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
    there = exist(rows, members)
    offsets = row_offsets(rows, groups, dilation, query_strides, LARGE)
    q, q_rest = load_rows(
        query + origin(batch, head, query_strides), offsets, there, query_strides[5], DIM, WIDTH, REST
    )
    offsets = row_offsets(rows, groups, dilation, grad_out_strides, LARGE)
    grad_out += origin(batch, head, grad_out_strides)
    g, g_rest = load_rows(grad_out, offsets, there, grad_out_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
    offsets = row_offsets(rows, groups, dilation, out_strides, LARGE)
    out += origin(batch, head, out_strides)
    o, o_rest = load_rows(out, offsets, there, out_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
    row_delta = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
    if VALUE_REST > 0:
        row_delta += tl.sum(o_rest.to(tl.float32) * g_rest.to(tl.float32), 1)
    statistics = origin(batch, head, statistics_strides) + row_offsets(rows, groups, dilation, statistics_strides, LARGE)
    tl.store(delta + statistics, row_delta, mask=there)
    largest = tl.load(largest_logit + statistics, mask=there, other=0.0)[:, None]
    log_sum = tl.load(log_total + statistics, mask=there, other=0.0)[:, None]
    row_delta = row_delta[:, None]
    starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
    starts, widths, query_place = in_rows(starts), in_rows(widths), flat(rows, KERNEL)[:, None]
    low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
    if EXPANDED:
        low = aligned(low, KEYS, LEAD)
    tiles = tiles_between(low, high, KEYS)

    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    sums, sums_rest = zero_rows(ROWS, WIDTH, REST)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, KEYS)
        columns = tile_members(start, KEYS)
        here = exist(columns, members)
        places = row_offsets(columns, groups, dilation, key_strides, LARGE)
        k, k_rest = load_rows(key, places, here, key_strides[5], DIM, WIDTH, REST)
        places = row_offsets(columns, groups, dilation, value_strides, LARGE)
        v, v_rest = load_rows(value, places, here, value_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
        visible = seen(in_columns(columns), starts, widths, RANK)
        logits = row_products(q, q_rest, k, k_rest, REST, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            if EXPANDED:
                logits += load_expanded(bias, head, start, first, PLACES, STEP, FIRST, ROWS, COLUMNS)
            else:
                logits += load_bias(bias, head, flat(columns, KERNEL)[None, :], query_place, visible, KERNEL)
        grad_weights = row_products(g, g_rest, v, v_rest, VALUE_REST, PRECISION)
        _, grad_logits = weights_and_gradients(logits, largest, log_sum, grad_weights, row_delta, visible)
        sums, sums_rest = add_weighted(grad_logits, k, k_rest, sums, sums_rest, REST, PRECISION)

    offsets = row_offsets(rows, groups, dilation, grad_query_strides, LARGE)
    grad_query += origin(batch, head, grad_query_strides)
    store_rows(
        grad_query, offsets, there, grad_query_strides[5], sums * scale, sums_rest * scale, DIM, WIDTH, REST
    )


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
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    REST: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_REST: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
    EXPANDED: tl.constexpr,
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
    there = exist(rows, members)
    offsets = row_offsets(rows, groups, dilation, key_strides, LARGE)
    k, k_rest = load_rows(key + origin(batch, head, key_strides), offsets, there, key_strides[5], DIM, WIDTH, REST)
    offsets = row_offsets(rows, groups, dilation, value_strides, LARGE)
    value += origin(batch, head, value_strides)
    v, v_rest = load_rows(value, offsets, there, value_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
    low, high = queries_of(first, members, KEYS, KERNEL, STRIDE, CAUSAL)
    if EXPANDED:
        low = aligned(low, TILE, (0, 0, 0))
    tiles = tiles_between(low, high, TILE)
    key_rows, key_place = in_rows(rows), flat(rows, KERNEL)[:, None]

    ROWS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    COLUMNS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    key_sums, key_sums_rest = zero_rows(ROWS, WIDTH, REST)
    value_sums, value_sums_rest = zero_rows(ROWS, VALUE_WIDTH, VALUE_REST)
    for index in range(tiles[0] * tiles[1] * tiles[2]):
        start = tile_at(index, low, tiles, TILE)
        columns = tile_members(start, TILE)
        here = exist(columns, members)
        places = row_offsets(columns, groups, dilation, query_strides, LARGE)
        q, q_rest = load_rows(query, places, here, query_strides[5], DIM, WIDTH, REST)
        places = row_offsets(columns, groups, dilation, grad_out_strides, LARGE)
        g, g_rest = load_rows(grad_out, places, here, grad_out_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
        places = row_offsets(columns, groups, dilation, statistics_strides, LARGE)
        largest = tl.load(largest_logit + places, mask=here, other=0.0)[None, :]
        log_sum = tl.load(log_total + places, mask=here, other=0.0)[None, :]
        column_delta = tl.load(delta + places, mask=here, other=0.0)[None, :]
        starts, widths = windows_of(columns, members, KERNEL, STRIDE, CAUSAL)
        visible = seen(key_rows, in_columns(starts), in_columns(widths), RANK)
        if q.dtype == tl.float32:  # the same bits as forward: an error of a large logit is an error of its weight
            logits = tl.trans(row_products(q, q_rest, k, k_rest, REST, PRECISION)) * (scale * LOG2_E)
        else:
            logits = row_products(k, k_rest, q, q_rest, REST, PRECISION) * (scale * LOG2_E)
        if bias is not None:
            if EXPANDED:
                logits += load_expanded(bias, head, first, start, PLACES, STEP, FIRST, ROWS, COLUMNS)
            else:
                logits += load_bias(bias, head, key_place, flat(columns, KERNEL)[None, :], visible, KERNEL)
        grad_weights = row_products(v, v_rest, g, g_rest, VALUE_REST, PRECISION)
        weights, grad_logits = weights_and_gradients(
            logits, largest, log_sum, grad_weights, column_delta, visible
        )
        value_sums, value_sums_rest = add_weighted(
            weights, g, g_rest, value_sums, value_sums_rest, VALUE_REST, PRECISION
        )
        key_sums, key_sums_rest = add_weighted(grad_logits, q, q_rest, key_sums, key_sums_rest, REST, PRECISION)

    offsets = row_offsets(rows, groups, dilation, grad_key_strides, LARGE)
    grad_key += origin(batch, head, grad_key_strides)
    store_rows(
        grad_key, offsets, there, grad_key_strides[5], key_sums * scale, key_sums_rest * scale, DIM, WIDTH, REST
    )
    offsets = row_offsets(rows, groups, dilation, grad_value_strides, LARGE)
    grad_value += origin(batch, head, grad_value_strides)
    store_rows(
        grad_value,
        offsets,
        there,
        grad_value_strides[5],
        value_sums,
        value_sums_rest,
        VALUE_DIM,
        VALUE_WIDTH,
        VALUE_REST,
    )
