"""The bias of pairs of queries and keys in the GPU kernels of neighborhood attention, in Triton.

A tile of keys has a fixed number of places around a tile of queries. At one place, an element of the tile of pairs has
the same entry of the relative table wherever the queries are. So the table can be laid out by tiles of pairs once per
call, and a kernel loads its bias as it loads keys, without an index per pair.
"""

import triton
import triton.language as tl

from regard.attention.neighborhood.triton_geometry import in_columns, in_rows, tile_members

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_table(bias, head, keys, queries, KERNEL: tl.constexpr):
    """Load the entries of pairs from the relative table; 0 for pairs without. Members are laid out for broadcasting."""
    entry, near = table_entries(head, keys, queries, KERNEL)
    return tl.load(bias + entry, mask=near, other=0.0)


@triton.jit
def table_entries(head, keys, queries, KERNEL: tl.constexpr):
    """Return the places of pairs in the relative table, and which of them have one."""
    center: tl.constexpr = ((KERNEL[0] - 1) * (2 * KERNEL[1] - 1) + KERNEL[1] - 1) * (2 * KERNEL[2] - 1) + KERNEL[2] - 1
    entries: tl.constexpr = (2 * KERNEL[0] - 1) * (2 * KERNEL[1] - 1) * (2 * KERNEL[2] - 1)
    near = (tl.abs(keys[0] - queries[0]) < KERNEL[0]) & (tl.abs(keys[1] - queries[1]) < KERNEL[1])
    near &= tl.abs(keys[2] - queries[2]) < KERNEL[2]
    return (head * entries + center) + (_entry(keys, KERNEL) - _entry(queries, KERNEL)), near


@triton.jit
def _entry(members, KERNEL: tl.constexpr):
    """Return numbers whose difference, key minus query, is the distance in the table from its center."""
    return (members[0] * (2 * KERNEL[1] - 1) + members[1]) * (2 * KERNEL[2] - 1) + members[2]


@triton.jit
def pair_bias(
    bias,
    head,
    key_start,
    query_start,
    keys,
    queries,
    KERNEL: tl.constexpr,
    PLACES: tl.constexpr,
    STEP: tl.constexpr,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Load the bias of a tile of pairs, in units of the exponent of 2, `[ROWS, COLUMNS]`.

    Args:
        bias: what `expand_bias` wrote for tiles like this; the relative table itself if `PLACES` are 0.
        head: of the pairs.
        key_start: the first members of the tile of keys.
        query_start: the first members of the tile of queries.
        keys: their members, laid out for broadcasting.
        queries: likewise.
        KERNEL: keys per axis.
        PLACES: of tiles of keys around a tile of queries, per axis.
        STEP: between places, in members.
        FIRST: place, in members after the tile of queries.
        ROWS: of the tile.
        COLUMNS: of the tile.
    """
    if PLACES[0] > 0:
        place = (key_start[0] - query_start[0] - FIRST[0]) // STEP[0]
        place = place * PLACES[1] + (key_start[1] - query_start[1] - FIRST[1]) // STEP[1]
        place = place * PLACES[2] + (key_start[2] - query_start[2] - FIRST[2]) // STEP[2]
        tile = (head * (PLACES[0] * PLACES[1] * PLACES[2]) + place).to(tl.int64)
        loaded = tl.load(bias + tile * (ROWS * COLUMNS) + elements(ROWS, COLUMNS))
    else:
        loaded = load_table(bias, head, keys, queries, KERNEL)
    return loaded.to(tl.float32) * LOG2_E


@triton.jit
def elements(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the places of a tile's elements in contiguous memory."""
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


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
    """Fill one tile of `expanded`, `[heads, places, queries, keys]` or `[heads, places, keys, queries]`."""
    program = tl.program_id(0)
    head, place = program // (PLACES[0] * PLACES[1] * PLACES[2]), program % (PLACES[0] * PLACES[1] * PLACES[2])
    ahead_0 = FIRST[0] + place // (PLACES[1] * PLACES[2]) * STEP[0]
    ahead_1 = FIRST[1] + place // PLACES[2] % PLACES[1] * STEP[1]
    ahead_2 = FIRST[2] + place % PLACES[2] * STEP[2]
    queries, keys = tile_members((0, 0, 0), TILE), tile_members((ahead_0, ahead_1, ahead_2), KEYS)
    if KEYS_IN_ROWS:
        loaded = load_table(bias, head, in_rows(keys), in_columns(queries), KERNEL)
    else:
        loaded = load_table(bias, head, in_columns(keys), in_rows(queries), KERNEL)
    ROWS: tl.constexpr = loaded.shape[0]
    COLUMNS: tl.constexpr = loaded.shape[1]
    tl.store(expanded + program.to(tl.int64) * (ROWS * COLUMNS) + elements(ROWS, COLUMNS), loaded)
