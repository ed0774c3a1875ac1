"""Triton functions of the pooled mechanisms: tiles of tokens, and pools of tokens, which are joined in a fixed order.

A tile is float32 `[tokens, heads, channels]`. Its `SHAPE` holds five numbers: tokens, heads, channels of a head, and
the powers of 2 that cover heads and channels. A mechanism without heads has one.

A pool of tokens is the largest score, the sum of `exp(score - largest)`, and the sum of the rows times these factors:
`top`, `total` and `context`. Every row of a tile has a pool of its own, so that a loop over tiles adds nothing up
across rows. The pools of many programs go through memory, in float32: contexts `[places, heads * channels]` and
statistics `[places, 2, heads]`.
"""

import triton
import triton.language as tl


@triton.jit
def exist(SHAPE: tl.constexpr):
    """Return which heads and channels exist, `[heads, channels]`."""
    return (tl.arange(0, SHAPE[3]) < SHAPE[1])[:, None] & (tl.arange(0, SHAPE[4]) < SHAPE[2])[None, :]


@triton.jit
def tile_offsets(steps, batch, tokens, SHAPE: tl.constexpr):
    """Return the offsets of a tile's elements; `steps` are the strides of batch, token, head and channel."""
    heads, channels = tl.arange(0, SHAPE[3]).to(tl.int64), tl.arange(0, SHAPE[4]).to(tl.int64)
    row = heads[:, None] * steps[2] + channels[None, :] * steps[3]
    return (batch * steps[0] + tokens * steps[1])[:, None, None] + row[None, :, :]


@triton.jit
def load_tile(pointer, steps, batch, tokens, inside, SHAPE: tl.constexpr):
    """Load the rows of `tokens`; zeros where `inside` is false."""
    mask = inside[:, None, None] & exist(SHAPE)[None, :, :]
    return tl.load(pointer + tile_offsets(steps, batch, tokens, SHAPE), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(pointer, steps, batch, tokens, inside, tile, SHAPE: tl.constexpr):
    """Store the rows of `tokens` where `inside` is true, rounded to the tensor's dtype."""
    mask = inside[:, None, None] & exist(SHAPE)[None, :, :]
    tl.store(pointer + tile_offsets(steps, batch, tokens, SHAPE), tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def zero_tile(SHAPE: tl.constexpr):
    """Return zeros, `[tokens, heads, channels]`."""
    return tl.full([SHAPE[0], SHAPE[3], SHAPE[4]], 0.0, tl.float32)


@triton.jit
def load_scores(pointer, places, inside, SHAPE: tl.constexpr):
    """Load the scores of tokens, `[tokens, heads]`, from `[places, heads]`; -inf where `inside` is false."""
    heads = tl.arange(0, SHAPE[3])
    mask = inside[:, None] & (heads < SHAPE[1])[None, :]
    return tl.load(pointer + places[:, None] * SHAPE[1] + heads[None, :], mask=mask, other=-float("inf"))


@triton.jit
def store_scores(pointer, places, inside, scores, SHAPE: tl.constexpr):
    """Store what `load_scores` loads."""
    heads = tl.arange(0, SHAPE[3])
    mask = inside[:, None] & (heads < SHAPE[1])[None, :]
    tl.store(pointer + places[:, None] * SHAPE[1] + heads[None, :], scores, mask=mask)


@triton.jit
def finite(top):
    """Return 0 in the place of -inf: what to subtract from scores, since the difference of infinities is NaN."""
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def empty_pools(SHAPE: tl.constexpr):
    """Return one empty pool per row of a tile: top, total, context."""
    statistics = tl.full([SHAPE[0], SHAPE[3]], 0.0, tl.float32)
    return statistics - float("inf"), statistics, zero_tile(SHAPE)


@triton.jit
def add_pools(top, total, context, more_top, more_total, more_context):
    """Add a pool to each pool of a tile. A token is a pool: its score, 1, its row. NaN never becomes the top."""
    highest = tl.where(more_top > top, more_top, top)
    base = finite(highest)
    old, new = tl.exp(top - base), tl.exp(more_top - base)
    return highest, total * old + more_total * new, context * old[:, :, None] + more_context * new[:, :, None]


@triton.jit
def merge_rows(top, total, context):
    """Add the pools of a tile's rows: top and total, `[heads]`, and context, `[heads, channels]`."""
    highest = tl.max(top, 0)
    factors = tl.exp(top - finite(highest)[None, :])
    return highest, tl.sum(total * factors, 0), tl.sum(context * factors[:, :, None], 0)


@triton.jit
def store_sums(pointer, place, sums, SHAPE: tl.constexpr):
    """Store float32 sums, `[heads, channels]`, at a place of `[places, heads * channels]`."""
    row = tl.arange(0, SHAPE[3])[:, None] * SHAPE[2] + tl.arange(0, SHAPE[4])[None, :]
    tl.store(pointer + place * (SHAPE[1] * SHAPE[2]) + row, sums, mask=exist(SHAPE))


@triton.jit
def store_pool(contexts, statistics, place, top, total, context, SHAPE: tl.constexpr):
    """Store the pool of a tile's rows at a place."""
    top, total, context = merge_rows(top, total, context)
    store_sums(contexts, place, context, SHAPE)
    heads = tl.arange(0, SHAPE[3])
    tl.store(statistics + place * (2 * SHAPE[1]) + heads, top, mask=heads < SHAPE[1])
    tl.store(statistics + place * (2 * SHAPE[1]) + SHAPE[1] + heads, total, mask=heads < SHAPE[1])


@triton.jit
def join_pools(contexts, statistics, first, parts, SHAPE: tl.constexpr):
    """Add the pools at `parts` places from `first`. Where there is no head, the total is 1 and the context 0.

    Returns:
        What to subtract from scores, `[heads]`; the total, `[heads]`; the context, `[heads, channels]`.
    """
    heads = tl.arange(0, SHAPE[3])
    top, total, context = empty_pools(SHAPE)
    for start in range(0, parts, SHAPE[0]):
        part = start + tl.arange(0, SHAPE[0])
        inside = part < parts
        places = first + part
        statistic = statistics + places[:, None] * (2 * SHAPE[1]) + heads[None, :]
        mask = inside[:, None] & (heads < SHAPE[1])[None, :]
        one_top = tl.load(statistic, mask=mask, other=-float("inf"))
        one_total = tl.load(statistic + SHAPE[1], mask=mask, other=0.0)
        steps = (0, SHAPE[1] * SHAPE[2], SHAPE[2], 1)
        one_context = load_tile(contexts, steps, 0, places, inside, SHAPE)
        top, total, context = add_pools(top, total, context, one_top, one_total, one_context)
    top, total, context = merge_rows(top, total, context)
    return finite(top), tl.where(heads < SHAPE[1], total, 1.0), context


@triton.jit
def join_sums(sums, first, parts, SHAPE: tl.constexpr):
    """Add the sums at `parts` places from `first`: `[heads, channels]`."""
    total = zero_tile(SHAPE)
    for start in range(0, parts, SHAPE[0]):
        part = start + tl.arange(0, SHAPE[0])
        steps = (0, SHAPE[1] * SHAPE[2], SHAPE[2], 1)
        total += load_tile(sums, steps, 0, first + part, part < parts, SHAPE)
    return tl.sum(total, 0)


@triton.jit
def softmax_backward(weights, rows, context, context_grad):
    """Return the gradients of the scores, `[tokens, heads]`, from the pooled rows and their context's gradient.

    The mean of the weights' gradients is subtracted inside the product: the result is exactly 0 if one token has all
    the weight. The definition subtracts infinities where the context's gradient is not finite, and yields NaN.
    """
    zero_or_nan = tl.sum(context_grad * 0.0, 1)
    weight_grads = tl.sum((rows - context[None, :, :]) * context_grad[None, :, :], 2)
    return weights * (weight_grads + zero_or_nan[None, :])
