"""Which keys a query sees, and which queries see a key: arithmetic that all neighborhood kernels share, in Triton.

Kernels see three grid axes; missing ones come first and have length 1. A dilated axis falls into groups of positions
with equal remainders, and a kernel works inside one group per axis: on its members, numbered from 0. Tiles of queries
and of keys are boxes of members, with a row per member, the last axis fastest.
"""

import triton
import triton.language as tl

from regard.gpu.triton_tiles import load_rows, store_rows


@triton.jit
def unravel(program, heads, length, dilation, TILE: tl.constexpr, LEAD: tl.constexpr):
    """Return batch, head, groups and first members of the tile that a program works on; tiles of a head are adjacent.

    The first tile of an axis starts `LEAD` members before the axis does.
    """
    tiles_2 = tl.cdiv(tl.cdiv(length[2], dilation[2]) + LEAD[2], TILE[2])
    tiles_1 = tl.cdiv(tl.cdiv(length[1], dilation[1]) + LEAD[1], TILE[1])
    tiles_0 = tl.cdiv(tl.cdiv(length[0], dilation[0]) + LEAD[0], TILE[0])
    first_2, rest = program % tiles_2 * TILE[2] - LEAD[2], program // tiles_2
    first_1, rest = rest % tiles_1 * TILE[1] - LEAD[1], rest // tiles_1
    first_0, rest = rest % tiles_0 * TILE[0] - LEAD[0], rest // tiles_0
    group_2, rest = rest % dilation[2], rest // dilation[2]
    group_1, rest = rest % dilation[1], rest // dilation[1]
    group_0, rest = rest % dilation[0], rest // dilation[0]
    return rest // heads, rest % heads, (group_0, group_1, group_2), (first_0, first_1, first_2)


@triton.jit
def members_of(groups, length, dilation):
    """Return the number of members of each axis' group."""
    return (
        (length[0] - 1 - groups[0]) // dilation[0] + 1,
        (length[1] - 1 - groups[1]) // dilation[1] + 1,
        (length[2] - 1 - groups[2]) // dilation[2] + 1,
    )


@triton.jit
def tile_members(first, TILE: tl.constexpr):
    """Return the members of a tile's rows, one vector per axis."""
    row = tl.arange(0, TILE[0] * TILE[1] * TILE[2])
    return (
        first[0] + row // (TILE[1] * TILE[2]),
        first[1] + row // TILE[2] % TILE[1],
        first[2] + row % TILE[2],
    )


@triton.jit
def exist(rows, members):
    """Return which rows are members of their groups."""
    there = (rows[0] >= 0) & (rows[1] >= 0) & (rows[2] >= 0)
    return there & (rows[0] < members[0]) & (rows[1] < members[1]) & (rows[2] < members[2])


@triton.jit
def row_offsets(rows, groups, dilation, strides, LARGE: tl.constexpr):
    """Return the offsets of rows from the first element of their batch entry and head; int64 if they are `LARGE`."""
    place_0 = groups[0] + dilation[0] * rows[0]
    place_1 = groups[1] + dilation[1] * rows[1]
    place_2 = groups[2] + dilation[2] * rows[2]
    if LARGE:
        place_0, place_1, place_2 = place_0.to(tl.int64), place_1.to(tl.int64), place_2.to(tl.int64)
    return place_0 * strides[1] + place_1 * strides[2] + place_2 * strides[3]


@triton.jit
def origin(batch, head, strides):
    """Return the offset of a batch entry and head."""
    return batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[4]


@triton.jit
def _first_key(place, members, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first member of the window that the member `place` of an axis sees."""
    run = place // STRIDE * STRIDE
    if CAUSAL:
        start = tl.maximum(tl.minimum(run + STRIDE - 1, members - 1) - KERNEL + 1, 0)
    else:
        leader = tl.minimum(run + STRIDE // 2, members - 1)
        start = tl.minimum(tl.maximum(leader - KERNEL // 2, 0), members - KERNEL)
    return start


@triton.jit
def _last_key(place, members, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the last member that the member `place` sees."""
    last = _first_key(place, members, KERNEL, STRIDE, CAUSAL) + KERNEL - 1
    if CAUSAL:
        last = tl.minimum(last, place)
    return last


@triton.jit
def _first_query(key, members, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return a member before which none sees the member `key`."""
    if CAUSAL:
        first = key
    else:
        leader = tl.maximum(key - KERNEL + 1, 0) + KERNEL // 2  # at or after it, windows reach the key
        first = tl.where(key < KERNEL, 0, tl.cdiv(tl.maximum(leader - STRIDE // 2, 0), STRIDE) * STRIDE)
    return first


@triton.jit
def _last_query(key, members, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return a member after which none sees the member `key`."""
    if CAUSAL:
        leader = key + KERNEL - 1  # up to it, windows reach the key
        run = tl.maximum(leader - STRIDE + 1, 0) // STRIDE * STRIDE
        last = tl.where(leader >= members - 1, members - 1, tl.minimum(run + STRIDE - 1, members - 1))
    else:
        leader = key + KERNEL // 2
        run = tl.maximum(leader - STRIDE // 2, 0) // STRIDE * STRIDE
        everyone = (key >= members - KERNEL) | (leader >= members - 1)
        last = tl.where(everyone, members - 1, tl.minimum(run + STRIDE - 1, members - 1))
    return last


@triton.jit
def windows_of(rows, members, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first members of the windows of rows of queries, and their widths; 0 for rows beyond the end."""
    start_0 = _first_key(rows[0], members[0], KERNEL[0], STRIDE[0], CAUSAL[0])
    start_1 = _first_key(rows[1], members[1], KERNEL[1], STRIDE[1], CAUSAL[1])
    start_2 = _first_key(rows[2], members[2], KERNEL[2], STRIDE[2], CAUSAL[2])
    width_0 = _last_key(rows[0], members[0], KERNEL[0], STRIDE[0], CAUSAL[0]) - start_0 + 1
    width_1 = _last_key(rows[1], members[1], KERNEL[1], STRIDE[1], CAUSAL[1]) - start_1 + 1
    width_2 = _last_key(rows[2], members[2], KERNEL[2], STRIDE[2], CAUSAL[2]) - start_2 + 1
    width_2 = tl.where(exist(rows, members), width_2, 0)
    return (start_0, start_1, start_2), (width_0, width_1, width_2)


@triton.jit
def keys_of(first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first and the last member, per axis, that a tile of queries sees."""
    last_0 = tl.minimum(first[0] + TILE[0], members[0]) - 1
    last_1 = tl.minimum(first[1] + TILE[1], members[1]) - 1
    last_2 = tl.minimum(first[2] + TILE[2], members[2]) - 1
    low = (
        _first_key(first[0], members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _first_key(first[1], members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _first_key(first[2], members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    high = (
        _last_key(last_0, members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _last_key(last_1, members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _last_key(last_2, members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    return low, high


@triton.jit
def queries_of(first, members, KEYS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first and the last member, per axis, that sees a tile of keys."""
    last_0 = tl.minimum(first[0] + KEYS[0], members[0]) - 1
    last_1 = tl.minimum(first[1] + KEYS[1], members[1]) - 1
    last_2 = tl.minimum(first[2] + KEYS[2], members[2]) - 1
    low = (
        _first_query(tl.maximum(first[0], 0), members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _first_query(tl.maximum(first[1], 0), members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _first_query(tl.maximum(first[2], 0), members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    high = (
        _last_query(last_0, members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _last_query(last_1, members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _last_query(last_2, members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    return low, high


@triton.jit
def tiles_between(first, members, low, high, TILE: tl.constexpr):
    """Return the number of tiles that cover the members from `low` to `high`, per axis.

    Zero where `first` is beyond the last member: in the last tile of a group that has fewer members than others.
    """
    has_members = (first[0] < members[0]) & (first[1] < members[1]) & (first[2] < members[2])
    return (
        tl.where(has_members, tl.cdiv(high[0] - low[0] + 1, TILE[0]), 0),
        tl.cdiv(high[1] - low[1] + 1, TILE[1]),
        tl.cdiv(high[2] - low[2] + 1, TILE[2]),
    )


@triton.jit
def aligned(low, TILE: tl.constexpr, LEAD: tl.constexpr):
    """Return the members at which tiles start that begin `LEAD` before the axes do, at or before `low`."""
    return (
        (low[0] + LEAD[0]) // TILE[0] * TILE[0] - LEAD[0],
        (low[1] + LEAD[1]) // TILE[1] * TILE[1] - LEAD[1],
        (low[2] + LEAD[2]) // TILE[2] * TILE[2] - LEAD[2],
    )


@triton.jit
def tile_at(index, low, tiles, TILE: tl.constexpr):
    """Return the first members of a tile among those of `tiles_between`."""
    return (
        low[0] + index // (tiles[1] * tiles[2]) * TILE[0],
        low[1] + index // tiles[2] % tiles[1] * TILE[1],
        low[2] + index % tiles[2] * TILE[2],
    )


@triton.jit
def seen(keys, starts, widths, RANK: tl.constexpr):
    """Return which keys are in which windows; keys and windows are laid out for broadcasting."""
    visible = _is_between(keys[2], starts[2], widths[2])
    if RANK > 1:
        visible &= _is_between(keys[1], starts[1], widths[1])
    if RANK > 2:
        visible &= _is_between(keys[0], starts[0], widths[0])
    return visible


@triton.jit
def _is_between(keys, starts, widths):
    """Compare once: without a sign, what lies before the start is large."""
    return (keys - starts).to(tl.uint32, bitcast=True) < widths.to(tl.uint32, bitcast=True)


@triton.jit
def all_seen(first, common_low, common_high, KEYS: tl.constexpr, RANK: tl.constexpr):
    """Return whether every query of a tile sees every key of another, which starts at `first`: no mask is needed."""
    whole = (first[2] >= common_low[2]) & (first[2] + KEYS[2] - 1 <= common_high[2])
    if RANK > 1:
        whole &= (first[1] >= common_low[1]) & (first[1] + KEYS[1] - 1 <= common_high[1])
    if RANK > 2:
        whole &= (first[0] >= common_low[0]) & (first[0] + KEYS[0] - 1 <= common_high[0])
    return whole


@triton.jit
def common_keys(first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first and the last member, per axis, that all queries of a tile see; none if the first is larger."""
    last_0 = tl.minimum(first[0] + TILE[0], members[0]) - 1
    last_1 = tl.minimum(first[1] + TILE[1], members[1]) - 1
    last_2 = tl.minimum(first[2] + TILE[2], members[2]) - 1
    low = (
        _first_key(last_0, members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _first_key(last_1, members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _first_key(last_2, members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    high = (
        _last_key(first[0], members[0], KERNEL[0], STRIDE[0], CAUSAL[0]),
        _last_key(first[1], members[1], KERNEL[1], STRIDE[1], CAUSAL[1]),
        _last_key(first[2], members[2], KERNEL[2], STRIDE[2], CAUSAL[2]),
    )
    return low, high


@triton.jit
def in_rows(vectors):
    """Lay one vector per axis out along rows, `[rows, 1]`."""
    return vectors[0][:, None], vectors[1][:, None], vectors[2][:, None]


@triton.jit
def in_columns(vectors):
    """Lay one vector per axis out along columns, `[1, columns]`."""
    return vectors[0][None, :], vectors[1][None, :], vectors[2][None, :]


@triton.jit
def load_members(
    pointer, rows, groups, members, dilation, strides, SIZES: tl.constexpr, KEEP: tl.constexpr, LARGE: tl.constexpr
):
    """Load rows of one batch entry and head, in the form of `load_rows`; zeros where no member is."""
    offsets = row_offsets(rows, groups, dilation, strides, LARGE)
    return load_rows(pointer, offsets, exist(rows, members), strides[5], SIZES, KEEP)


@triton.jit
def store_members(pointer, values, rows, groups, members, dilation, strides, SIZES: tl.constexpr, LARGE: tl.constexpr):
    """Store what `load_members` would load."""
    offsets = row_offsets(rows, groups, dilation, strides, LARGE)
    store_rows(pointer, offsets, exist(rows, members), strides[5], values, SIZES)
