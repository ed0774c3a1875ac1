"""The GPU kernels of neighborhood attention's bias, in Triton: its layout for the other kernels, and its gradient.

A tile of keys has a fixed number of places around a tile of queries. At one place, the same element of the tile of pairs
has the same entry of the table wherever the queries are. So a program adds up the logits' gradients of one place over many
tiles of queries in registers, and the second kernel adds up the elements of each entry. No sum has an order of chance.
"""

import triton
import triton.language as tl

from regard.attention.neighborhood.gpu_geometry import (
    exist,
    flat,
    in_columns,
    in_rows,
    in_table,
    keys_of,
    load_bias,
    members_of,
    origin,
    row_offsets,
    seen,
    tile_members,
    unravel,
    windows_of,
)
from regard.attention.neighborhood.gpu_kernels import LOG2_E, weights_and_gradients
from regard.gpu.tiles import load_rows, row_products


@triton.jit
def expand_bias(
    bias,
    expanded,
    KERNEL: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    KEYS_IN_ROWS: tl.constexpr,
):
    """Fill one tile of `expanded`, `[heads, places, queries, keys]` or `[..., keys, queries]`; 0 where no entry is."""
    program = tl.program_id(0)
    head, place = program // (PLACES[0] * PLACES[1] * PLACES[2]), program % (PLACES[0] * PLACES[1] * PLACES[2])
    ahead_0 = FIRST[0] + place // (PLACES[1] * PLACES[2]) * STEP[0]
    ahead_1 = FIRST[1] + place // PLACES[2] % PLACES[1] * STEP[1]
    ahead_2 = FIRST[2] + place % PLACES[2] * STEP[2]
    queries, keys = tile_members((0, 0, 0), TILE), tile_members((ahead_0, ahead_1, ahead_2), KEYS)
    query_place, key_place = flat(queries, KERNEL), flat(keys, KERNEL)
    if KEYS_IN_ROWS:
        key_place, query_place = key_place[:, None], query_place[None, :]
        near = in_table(in_rows(keys), in_columns(queries), KERNEL)
    else:
        key_place, query_place = key_place[None, :], query_place[:, None]
        near = in_table(in_columns(keys), in_rows(queries), KERNEL)
    center: tl.constexpr = ((KERNEL[0] - 1) * (2 * KERNEL[1] - 1) + KERNEL[1] - 1) * (2 * KERNEL[2] - 1) + KERNEL[2] - 1
    entries: tl.constexpr = (2 * KERNEL[0] - 1) * (2 * KERNEL[1] - 1) * (2 * KERNEL[2] - 1)
    loaded = tl.load(bias + (head * entries + center) + (key_place - query_place), mask=near, other=0.0)
    ROWS: tl.constexpr = near.shape[0]
    COLUMNS: tl.constexpr = near.shape[1]
    expanded += program.to(tl.int64) * (ROWS * COLUMNS)
    tl.store(expanded + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], loaded)


@triton.jit
def gradients_by_place(
    query,
    key,
    value,
    bias,
    largest_logit,
    log_total,
    delta,
    grad_out,
    partial,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    statistics_strides,
    length,
    dilation,
    first_place,
    places,
    first_head,
    tiles,
    chunks,
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
    """Fill one tile of `partial`, `[heads, places, chunks, queries, keys]`: one head and place, each chunk-th tile."""
    program = tl.program_id(0)
    chunk, rest = program % chunks, program // chunks
    place, head = rest % (places[0] * places[1] * places[2]), first_head + rest // (places[0] * places[1] * places[2])
    ahead_0 = first_place[0] + place // (places[1] * places[2]) * KEYS[0]
    ahead_1 = first_place[1] + place // places[2] % places[1] * KEYS[1]
    ahead_2 = first_place[2] + place % places[2] * KEYS[2]

    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    at_rows, at_columns = tile_members((0, 0, 0), TILE), tile_members((ahead_0, ahead_1, ahead_2), KEYS)
    near = in_table(in_columns(at_columns), in_rows(at_rows), KERNEL)
    own_bias = load_bias(bias, head, flat(at_columns, KERNEL)[None, :], flat(at_rows, KERNEL)[:, None], near, KERNEL)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(chunk, tiles, chunks):
        batch, _head, groups, first = unravel(tile, 1, length, dilation, TILE, (0, 0, 0))
        members = members_of(groups, length, dilation)
        low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
        start_0, start_1, start_2 = first[0] + ahead_0, first[1] + ahead_1, first[2] + ahead_2
        met = (start_0 <= high[0]) & (start_0 + KEYS[0] > low[0])
        met &= (start_1 <= high[1]) & (start_1 + KEYS[1] > low[1])
        met &= (start_2 <= high[2]) & (start_2 + KEYS[2] > low[2])
        if met:
            rows = tile_members(first, TILE)
            columns = tile_members((start_0, start_1, start_2), KEYS)
            there = exist(rows, members)
            here = exist(columns, members)
            offsets = origin(batch, head, query_strides) + row_offsets(rows, groups, dilation, query_strides, LARGE)
            q, q_rest = load_rows(query, offsets, there, query_strides[5], DIM, WIDTH, REST)
            offsets = origin(batch, head, key_strides) + row_offsets(columns, groups, dilation, key_strides, LARGE)
            k, k_rest = load_rows(key, offsets, here, key_strides[5], DIM, WIDTH, REST)
            offsets = origin(batch, head, grad_out_strides) + row_offsets(rows, groups, dilation, grad_out_strides, LARGE)
            g, g_rest = load_rows(grad_out, offsets, there, grad_out_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
            offsets = origin(batch, head, value_strides) + row_offsets(columns, groups, dilation, value_strides, LARGE)
            v, v_rest = load_rows(value, offsets, here, value_strides[5], VALUE_DIM, VALUE_WIDTH, VALUE_REST)
            offsets = origin(batch, head, statistics_strides) + row_offsets(rows, groups, dilation, statistics_strides, LARGE)
            largest = tl.load(largest_logit + offsets, mask=there, other=0.0)[:, None]
            log_sum = tl.load(log_total + offsets, mask=there, other=0.0)[:, None]
            row_delta = tl.load(delta + offsets, mask=there, other=0.0)[:, None]
            starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
            visible = seen(in_columns(columns), in_rows(starts), in_rows(widths), RANK)
            logits = row_products(q, q_rest, k, k_rest, REST, PRECISION) * (scale * LOG2_E)
            logits += own_bias
            grad_weights = row_products(g, g_rest, v, v_rest, VALUE_REST, PRECISION)
            _weights, grad_logits = weights_and_gradients(
                logits, largest, log_sum, grad_weights, row_delta, visible
            )
            sums += grad_logits
    partial += program.to(tl.int64) * (ROWS * COLUMNS)
    tl.store(partial + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], sums)


@triton.jit
def sum_by_entry(
    partial,
    grad_bias,
    first_place,
    places,
    first_head,
    chunks,
    KERNEL: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Fill `ENTRIES` entries of one head's table, each the sum of its elements over all places and chunks."""
    entries: tl.constexpr = (2 * KERNEL[0] - 1) * (2 * KERNEL[1] - 1) * (2 * KERNEL[2] - 1)
    blocks: tl.constexpr = (entries + ENTRIES - 1) // ENTRIES
    head = tl.program_id(0) // blocks
    entry = tl.program_id(0) % blocks * ENTRIES + tl.arange(0, ENTRIES)
    rows = tile_members((0, 0, 0), TILE)
    # The distance of the entry's key from the first key of the first place, in members, `[ENTRIES, queries]`.
    offset_0 = (entry // ((2 * KERNEL[1] - 1) * (2 * KERNEL[2] - 1)) - KERNEL[0] + 1)[:, None]
    offset_1 = (entry // (2 * KERNEL[2] - 1) % (2 * KERNEL[1] - 1) - KERNEL[1] + 1)[:, None]
    offset_2 = (entry % (2 * KERNEL[2] - 1) - KERNEL[2] + 1)[:, None]
    away_0 = offset_0 + rows[0][None, :] - first_place[0]
    away_1 = offset_1 + rows[1][None, :] - first_place[1]
    away_2 = offset_2 + rows[2][None, :] - first_place[2]
    place = (away_0 // KEYS[0] * places[1] + away_1 // KEYS[1]) * places[2] + away_2 // KEYS[2]
    column = (away_0 % KEYS[0] * KEYS[1] + away_1 % KEYS[1]) * KEYS[2] + away_2 % KEYS[2]

    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    all_places = places[0] * places[1] * places[2]
    element = tl.arange(0, ROWS)[None, :] * COLUMNS + column
    there = (entry < entries)[:, None]
    total = tl.zeros([ENTRIES], tl.float32)
    for chunk in range(chunks):
        tile = ((head * all_places + place) * chunks + chunk).to(tl.int64)
        total += tl.sum(tl.load(partial + tile * (ROWS * COLUMNS) + element, mask=there, other=0.0), 1)
    target = grad_bias + (first_head + head).to(tl.int64) * entries + entry
    tl.store(target, total.to(grad_bias.dtype.element_ty), mask=entry < entries)
