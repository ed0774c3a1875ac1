"""Triton functions of talking-heads attention: tiles of tokens or of pairs of tokens, a tuple of one per head, and mixes.

Triples of constants are a head dim and the widths of its two parts, as in `launch.split_channels`; `HEADS` of the kernels
are the key heads, the softmax heads and the value heads.
"""

import triton
import triton.language as tl

from regard.gpu.tiles import add_weighted, load_rows, row_products, store_rows, zero_rows


@triton.jit
def row_places(batch, tokens, strides):
    """Return where the rows of tokens begin, in elements."""
    return batch * strides[0] + tokens.to(tl.int64) * strides[1]


@triton.jit
def again(start):
    """Return 0, as no compiler knows: a pointer plus this is loaded in every step, not kept in registers by the loop."""
    return start >> 30


@triton.jit
def load_heads(pointer, places, inside, strides, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Load the rows at `places` of every head: two tuples, of the heads' first parts and of their second parts."""
    firsts, rests = (), ()
    for head in tl.static_range(HEADS):
        offsets = places + tl.full([], head, tl.int64) * strides[2]
        first, rest = load_rows(pointer, offsets, inside, strides[3], CHANNELS[0], CHANNELS[1], CHANNELS[2])
        firsts, rests = firsts + (first,), rests + (rest,)
    return firsts, rests


@triton.jit
def zero_heads(ROWS: tl.constexpr, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return zeros in the form of `load_heads`."""
    firsts, rests = (), ()
    for _ in tl.static_range(HEADS):
        first, rest = zero_rows(ROWS, CHANNELS[1], CHANNELS[2])
        firsts, rests = firsts + (first,), rests + (rest,)
    return firsts, rests


@triton.jit
def store_heads(pointer, places, inside, strides, firsts, rests, factor, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Store the rows of every head, multiplied by a factor."""
    for head in tl.static_range(HEADS):
        offsets = places + tl.full([], head, tl.int64) * strides[2]
        first, rest = firsts[head] * factor, rests[head] * factor
        store_rows(pointer, offsets, inside, strides[3], first, rest, CHANNELS[0], CHANNELS[1], CHANNELS[2])


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
def head_products(own, other, HEADS: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr):
    """Multiply every row of one tile of `load_heads` with every row of another: `[rows of own, rows of other]`."""
    found = ()
    for head in tl.static_range(HEADS):
        products = row_products(own[0][head], own[1][head], other[0][head], other[1][head], REST, PRECISION)
        found = found + (products,)
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
    REST: tl.constexpr,
    PRECISION: tl.constexpr,
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
        REST: width of the second parts.
        PRECISION: of products of float32.
    """
    for head in tl.static_range(HEADS):
        products = row_products(own[0][head], own[1][head], other[0][head], other[1][head], REST, PRECISION)
        added = ()
        for mixed in tl.static_range(MIXED):
            added = added + (sums[mixed] + tl.load(mix + mixed * down + head * across) * products,)
        sums = added
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
def add_mixed(
    totals,
    tiles,
    rows,
    mix,
    down,
    across,
    bias,
    inside,
    HEADS: tl.constexpr,
    MIXED: tl.constexpr,
    EVEN: tl.constexpr,
    REST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Mix the tiles of weights, and add the sums of rows with mixed weights to the totals.

    Args:
        totals: a tile of `zero_heads`, of the mixed heads.
        tiles: weights, `[rows of totals, rows]` per head.
        rows: a tile of `load_heads`, of the mixed heads.
        mix: pointer to the mix of the first mixed head.
        down: from a mixed head to the next in the mix, in elements.
        across: from a head to the next in the mix.
        bias: pointer to what is added to the mixed weights; None for nothing.
        inside: which rows exist.
        HEADS: of the weights.
        MIXED: mixed heads.
        EVEN: whether all rows exist.
        REST: width of the second parts.
        PRECISION: of products of float32.
    """
    firsts, rests = (), ()
    for head in tl.static_range(MIXED):
        weights = 0.0
        if bias is not None:
            weights = tl.load(bias + head)
        weights = mixed_tiles(weights, tiles, mix + head * down, across, HEADS)
        if not EVEN:
            weights = tl.where(inside[None, :], weights, 0.0)
        first, rest = add_weighted(
            weights, rows[0][head], rows[1][head], totals[0][head], totals[1][head], REST, PRECISION
        )
        firsts, rests = firsts + (first,), rests + (rest,)
    return firsts, rests


@triton.jit
def zero_sums(LENGTH: tl.constexpr, COUNT: tl.constexpr):
    """Return a tuple of vectors of zeros."""
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (tl.zeros([LENGTH], tl.float32),)
    return found


@triton.jit
def partial_sums(tile, THREADS: tl.constexpr, NUMBERS: tl.constexpr):
    """Return the sum of what each thread has of a tile of `THREADS * NUMBERS` numbers; threads exchange nothing."""
    return tl.sum(tl.reshape(tile, [THREADS, NUMBERS], can_reorder=True), axis=1)


@triton.jit
def store_sums(pointer, sums, COUNT: tl.constexpr):
    """Store the sum of every vector, one after another."""
    for place in tl.static_range(COUNT):
        tl.store(pointer + place, tl.sum(sums[place], axis=0))


@triton.jit
def zero_tiles(ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEADS: tl.constexpr, DTYPE: tl.constexpr):
    """Return zeros, `[rows, columns]` per head."""
    found = ()
    for _ in tl.static_range(HEADS):
        found = found + (tl.zeros([ROWS, COLUMNS], DTYPE),)
    return found


@triton.jit
def mixed_weights(
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
    found = ()
    for head in tl.static_range(MIXED):
        weights = 0.0
        if bias is not None:
            weights = tl.load(bias + head)
        weights = mixed_tiles(weights, tiles, mix + head * down, across, HEADS)
        if not EVEN:
            weights = tl.where(inside[None, :], weights, 0.0)
        found = found + (weights.to(DTYPE),)
    return found


@triton.jit
def add_products(totals, weights, rows, HEADS: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr):
    firsts, rests = (), ()
    for head in tl.static_range(HEADS):
        first, rest = add_weighted(
            weights[head], rows[0][head], rows[1][head], totals[0][head], totals[1][head], REST, PRECISION
        )
        firsts, rests = firsts + (first,), rests + (rest,)
    return firsts, rests
