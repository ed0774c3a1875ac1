"""Triton functions of talking-heads attention: tiles of tokens or of pairs of them, tuples of one per head, and mixes.

CHANNELS, or QUERY and VALUE, are the SIZES of a head in `load_rows`, and whether heads are contiguous and next to each
other. HEADS of the kernels are the key, the softmax and the value heads.
"""

import triton
import triton.language as tl

from regard.gpu.triton_tiles import add_weighted, load_rows, row_products, scaled, store_rows, zero_rows


@triton.jit
def row_places(batch, tokens, strides):
    """Return where the rows of tokens begin, in elements."""
    return batch * strides[0] + tokens.to(tl.int64) * strides[1]


@triton.jit
def again(start):
    """Return 0, which no compiler knows: what is loaded from a pointer plus this takes no registers between steps."""
    return start >> 30


@triton.jit
def group_of(program, HEADS: tl.constexpr, GROUP: tl.constexpr):
    """Return the batch entry of a program, its group's first head, and how many of its heads the group before stores.

    The last group ends with the last head, and may share heads with the group before.
    """
    groups: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    first = program % groups * GROUP
    begin = tl.minimum(first, HEADS - GROUP)
    shared = 0
    if HEADS % GROUP > 0:
        shared = first - begin
    return (program // groups).to(tl.int64), begin.to(tl.int64), shared


@triton.jit
def head_place(head: tl.constexpr, strides, CHANNELS: tl.constexpr):
    """Return where a head begins in a token: where possible a constant, which needs no registers."""
    if CHANNELS[1]:
        return head * CHANNELS[0][0]
    else:
        return tl.full([], head, tl.int64) * strides[2]


@triton.jit
def load_heads(pointer, places, inside, strides, HEADS: tl.constexpr, CHANNELS: tl.constexpr, KEEP: tl.constexpr):
    """Load the rows at `places` of every head, a tuple.

    Where KEEP is false, nothing is loaded, but what `head_rows` needs to load a head when it is used.
    """
    SIZES: tl.constexpr = CHANNELS[0]
    if KEEP:
        heads = ()
        for head in tl.static_range(HEADS):
            offsets = places + head_place(head, strides, CHANNELS)
            heads = heads + (load_rows(pointer, offsets, inside, strides[3], SIZES, True),)
        return heads
    else:
        return pointer, places, inside, strides


@triton.jit
def head_rows(tile, head: tl.constexpr, CHANNELS: tl.constexpr, KEEP: tl.constexpr):
    """Return one head of a tile of `load_heads`, in the form of `load_rows`."""
    SIZES: tl.constexpr = CHANNELS[0]
    if KEEP:
        return tile[head]
    else:
        places = tile[1] + head_place(head, tile[3], CHANNELS)
        return load_rows(tile[0], places, tile[2], tile[3][3], SIZES, False)


@triton.jit
def zero_heads(ROWS: tl.constexpr, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return zeros in the form of `load_heads`."""
    SIZES: tl.constexpr = CHANNELS[0]
    heads = ()
    for _ in tl.static_range(HEADS):
        heads = heads + (zero_rows(ROWS, SIZES),)
    return heads


@triton.jit
def store_heads(pointer, places, inside, strides, heads, shared, factor, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Store the rows of every head but the first `shared`, multiplied by a factor."""
    SIZES: tl.constexpr = CHANNELS[0]
    for head in tl.static_range(HEADS):
        offsets = places + head_place(head, strides, CHANNELS)
        store_rows(pointer, offsets, inside & (shared <= head), strides[3], scaled(heads[head], factor), SIZES)


@triton.jit
def load_statistics(pointer, tokens, count, other, HEADS: tl.constexpr, OF_ROWS: tl.constexpr):
    """Load a number per softmax head and query, `[h, N]`, negative: a column or a row per head.

    Args:
        pointer: to the first head's first number.
        tokens: the queries.
        count: of queries.
        other: what stands for queries that do not exist.
        HEADS: softmax heads.
        OF_ROWS: whether the tiles' rows are queries.
    """
    found = ()
    for head in tl.static_range(HEADS):
        numbers = -tl.load(pointer + tl.full([], head, tl.int64) * count + tokens, mask=tokens < count, other=other)
        if OF_ROWS:
            found = found + (numbers[:, None],)
        else:
            found = found + (numbers[None, :],)
    return found


@triton.jit
def same(number, HEADS: tl.constexpr):
    """Return a tuple of one number."""
    found = ()
    for _ in tl.static_range(HEADS):
        found = found + (number,)
    return found


@triton.jit
def head_products(own, other, HEADS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr):
    """Multiply every row of one tile of `load_heads` with every row of another: `[rows of own, rows of other]`."""
    SIZES: tl.constexpr = CHANNELS[0]
    found = ()
    for head in tl.static_range(HEADS):
        a, b = head_rows(own, head, CHANNELS, KEEP), head_rows(other, head, CHANNELS, KEEP)
        found = found + (row_products(a, b, SIZES, KEEP, PRECISION),)
    return found


@triton.jit
def mixed_products(
    sums,
    own,
    other,
    mix,
    down,
    across,
    HEADS: tl.constexpr,
    MIXED: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    LAST: tl.constexpr,
    OF_ROWS: tl.constexpr,
):
    """Return `sums`, one per mixed head, with the mixed `head_products` of two tiles added.

    Args:
        sums: numbers or tiles.
        own: a tile of `load_heads`.
        other: another.
        mix: pointer to the mix.
        down: from a mixed head to the next in the mix, in elements.
        across: from a head to the next in the mix.
        HEADS: of the tiles.
        MIXED: mixed heads.
        CHANNELS: of the tiles.
        PRECISION: of products of float32.
        KEEP: as the tiles are loaded.
        LAST: whether `sums` are added last, and products are those of queries with keys, in this order: then equal
            products are equal in all kernels, and what is 0 becomes 0.
        OF_ROWS: whether `own` are queries.
    """
    SIZES: tl.constexpr = CHANNELS[0]
    given = sums
    if LAST:
        sums = same(0.0, MIXED)
    for head in tl.static_range(HEADS):
        a, b = head_rows(own, head, CHANNELS, KEEP), head_rows(other, head, CHANNELS, KEEP)
        if LAST and not OF_ROWS:
            products = tl.trans(row_products(b, a, SIZES, KEEP, PRECISION))
        else:
            products = row_products(a, b, SIZES, KEEP, PRECISION)
        added = ()
        for mixed in tl.static_range(MIXED):
            added = added + (sums[mixed] + tl.load(mix + mixed * down + head * across) * products,)
        sums = added
    if LAST:
        sums = add(sums, given, MIXED)
    return sums


@triton.jit
def mixed_tiles(total, tiles, mix, across, HEADS: tl.constexpr):
    """Return `total` with the tiles added, multiplied by the numbers that begin at `mix` and are `across` apart."""
    for head in tl.static_range(HEADS):
        total = total + tl.load(mix + head * across) * tiles[head]
    return total


@triton.jit
def powers(tiles, HEADS: tl.constexpr):
    """Return 2 to the power of each number."""
    found = ()
    for head in tl.static_range(HEADS):
        found = found + (tl.exp2(tiles[head]),)
    return found


@triton.jit
def softmax_weights(
    own,
    other,
    mix,
    lse,
    maxima,
    step,
    tokens,
    count,
    HEADS: tl.constexpr,
    MIXED: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    OF_ROWS: tl.constexpr,
):
    """Return the weights of all softmax heads for two tiles of `load_heads`.

    Args:
        own: a tile.
        other: another.
        mix: pointer to the mix of the logits.
        lse: pointer to the log-sum-exps of a batch entry, of which the maxima are subtracted if there are any.
        maxima: pointer to its logits' maxima, which float32 needs to be as exact as the reference; None for none.
        step: `again`.
        tokens: the queries.
        count: of queries.
        HEADS: key heads.
        MIXED: softmax heads.
        CHANNELS: of the tiles.
        PRECISION: of products of float32.
        KEEP: as the tiles are loaded.
        OF_ROWS: whether the tiles' rows are queries.
    """
    starts = load_statistics(lse + step, tokens, count, float("inf"), MIXED, OF_ROWS)
    if maxima is None:
        logits = mixed_products(
            starts, own, other, mix + step, HEADS, 1, HEADS, MIXED, CHANNELS, PRECISION, KEEP, False, OF_ROWS
        )
    else:
        shifts = load_statistics(maxima + step, tokens, count, 0.0, MIXED, OF_ROWS)
        logits = mixed_products(
            shifts, own, other, mix + step, HEADS, 1, HEADS, MIXED, CHANNELS, PRECISION, KEEP, True, OF_ROWS
        )
        logits = add(logits, starts, MIXED)
    return powers(logits, MIXED)


@triton.jit
def add(tiles, others, HEADS: tl.constexpr):
    """Add the tiles of each head."""
    found = ()
    for head in tl.static_range(HEADS):
        found = found + (tiles[head] + others[head],)
    return found


@triton.jit
def multiply(tiles, others, HEADS: tl.constexpr):
    """Multiply the tiles of each head."""
    found = ()
    for head in tl.static_range(HEADS):
        found = found + (tiles[head] * others[head],)
    return found


@triton.jit
def masked(tiles, inside, HEADS: tl.constexpr):
    """Return zeros where `inside` is false."""
    found = ()
    for head in tl.static_range(HEADS):
        found = found + (tl.where(inside, tiles[head], 0.0),)
    return found


@triton.jit
def zero_tiles(ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEADS: tl.constexpr, DTYPE: tl.constexpr):
    """Return a tile of zeros per head."""
    found = ()
    for _ in tl.static_range(HEADS):
        found = found + (tl.zeros([ROWS, COLUMNS], DTYPE),)
    return found


@triton.jit
def rounded_mix(
    tiles,
    mix,
    down,
    across,
    bias,
    inside,
    HEADS: tl.constexpr,
    MIXED: tl.constexpr,
    EVEN: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Mix tiles, and round them to the dtype of the rows that they will be multiplied with.

    Args:
        tiles: one per head.
        mix: pointer to the mix of the first mixed head.
        down: from a mixed head to the next in the mix, in elements.
        across: from a head to the next in the mix.
        bias: pointer to what is added to the mixed tiles; None for nothing.
        inside: which columns exist; the others become zeros.
        HEADS: of the tiles.
        MIXED: mixed heads.
        EVEN: whether all columns exist.
        DTYPE: of the result.
    """
    found = ()
    for head in tl.static_range(MIXED):
        total = 0.0
        if bias is not None:
            total = tl.load(bias + head)
        total = mixed_tiles(total, tiles, mix + head * down, across, HEADS)
        if not EVEN:
            total = tl.where(inside[None, :], total, 0.0)
        found = found + (total.to(DTYPE),)
    return found


@triton.jit
def add_products(
    totals,
    weights,
    rows,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Add the sums of rows with weights, `[rows of totals, rows]` per head, to tiles of `zero_heads`."""
    SIZES: tl.constexpr = CHANNELS[0]
    found = ()
    for head in tl.static_range(HEADS):
        own = head_rows(rows, head, CHANNELS, KEEP)
        found = found + (add_weighted(weights[head], own, totals[head], SIZES, KEEP, PRECISION),)
    return found
