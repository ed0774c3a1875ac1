"""The GPU kernels of the gradient of neighborhood attention's bias, in Triton.

A program adds up the gradients of logits at one place of a tile of keys over many tiles of queries, in registers: an
element always has the same entry of the table there. A second kernel adds up the elements of each entry. No two
programs write to one number, and no sum has an order of chance.
"""

import triton
import triton.language as tl

from regard.attention.neighborhood.triton_bias import LOG2_E, elements, load_table
from regard.attention.neighborhood.triton_geometry import (
    exist,
    in_columns,
    in_rows,
    keys_of,
    load_members,
    members_of,
    origin,
    row_offsets,
    seen,
    tile_members,
    unravel,
    windows_of,
)
from regard.attention.neighborhood.triton_kernels import weights_and_gradients
from regard.gpu.triton_tiles import row_products


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
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
):
    """Fill a tile of `partial`, `[heads, places, chunks, queries, keys]`, from every `chunks`-th tile of queries."""
    program = tl.program_id(0)
    head, ahead, chunk = divide(program, first_place, places, first_head, chunks, KEYS)
    tensors = query, key, value, bias, largest_logit, log_total, delta, grad_out
    all_strides = query_strides, key_strides, value_strides, grad_out_strides, statistics_strides
    sums = sums_at_place(
        tensors, all_strides, length, dilation, head, ahead, chunk, tiles, chunks, scale,
        KERNEL, STRIDE, CAUSAL, RANK, TILE, KEYS, SIZES, VALUE_SIZES, KEEP, PRECISION, LARGE,
    )  # fmt: skip
    partial += program.to(tl.int64) * (sums.shape[0] * sums.shape[1])
    tl.store(partial + elements(sums.shape[0], sums.shape[1]), sums)


@triton.jit
def divide(program, first_place, places, first_head, chunks, KEYS: tl.constexpr):
    """Return a program's head, how far its keys are ahead of its queries, in members, and its first tile of queries."""
    chunk, rest = program % chunks, program // chunks
    place, head = rest % (places[0] * places[1] * places[2]), first_head + rest // (places[0] * places[1] * places[2])
    ahead_0 = first_place[0] + place // (places[1] * places[2]) * KEYS[0]
    ahead_1 = first_place[1] + place // places[2] % places[1] * KEYS[1]
    ahead_2 = first_place[2] + place % places[2] * KEYS[2]
    return head, (ahead_0, ahead_1, ahead_2), chunk


@triton.jit
def sums_at_place(
    tensors,
    all_strides,
    length,
    dilation,
    head,
    ahead,
    chunk,
    tiles,
    chunks,
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
):
    """Add up the logits' gradients of every `chunks`-th tile of queries, from `chunk`, with the keys `ahead`."""
    query, key, value, bias, largest_logit, log_total, delta, grad_out = tensors
    query_strides, key_strides, value_strides, grad_out_strides, statistics_strides = all_strides
    queries, keys = tile_members((0, 0, 0), TILE), tile_members(ahead, KEYS)
    own_bias = load_table(bias, head, in_columns(keys), in_rows(queries), KERNEL).to(tl.float32) * LOG2_E

    ROWS: tl.constexpr = TILE[0] * TILE[1] * TILE[2]
    COLUMNS: tl.constexpr = KEYS[0] * KEYS[1] * KEYS[2]
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(chunk, tiles, chunks):
        batch, _head, groups, first = unravel(tile, 1, length, dilation, TILE, (0, 0, 0))
        members = members_of(groups, length, dilation)
        low, high = keys_of(first, members, TILE, KERNEL, STRIDE, CAUSAL)
        start = (first[0] + ahead[0], first[1] + ahead[1], first[2] + ahead[2])
        if _meet(start, low, high, KEYS):
            rows, columns = tile_members(first, TILE), tile_members(start, KEYS)
            there = exist(rows, members)
            own = query + origin(batch, head, query_strides)
            q = load_members(own, rows, groups, members, dilation, query_strides, SIZES, KEEP, LARGE)
            own = key + origin(batch, head, key_strides)
            k = load_members(own, columns, groups, members, dilation, key_strides, SIZES, KEEP, LARGE)
            own = grad_out + origin(batch, head, grad_out_strides)
            g = load_members(own, rows, groups, members, dilation, grad_out_strides, VALUE_SIZES, KEEP, LARGE)
            own = value + origin(batch, head, value_strides)
            v = load_members(own, columns, groups, members, dilation, value_strides, VALUE_SIZES, KEEP, LARGE)
            offsets = row_offsets(rows, groups, dilation, statistics_strides, LARGE)
            offsets += origin(batch, head, statistics_strides)
            largest = tl.load(largest_logit + offsets, mask=there, other=0.0)[:, None]
            log_sum = tl.load(log_total + offsets, mask=there, other=0.0)[:, None]
            means = tl.load(delta + offsets, mask=there, other=0.0)[:, None]
            starts, widths = windows_of(rows, members, KERNEL, STRIDE, CAUSAL)
            visible = seen(in_columns(columns), in_rows(starts), in_rows(widths), RANK)
            logits = row_products(q, k, SIZES, KEEP, PRECISION) * (scale * LOG2_E) + own_bias
            grads = row_products(g, v, VALUE_SIZES, KEEP, PRECISION)
            _weights, grads = weights_and_gradients(logits, largest, log_sum, grads, means, visible)
            sums += grads
    return sums


@triton.jit
def _meet(start, low, high, KEYS: tl.constexpr):
    """Return whether a tile of keys has some between `low` and `high`."""
    met = (start[0] <= high[0]) & (start[0] + KEYS[0] > low[0])
    met &= (start[1] <= high[1]) & (start[1] + KEYS[1] > low[1])
    return met & (start[2] <= high[2]) & (start[2] + KEYS[2] > low[2])


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
