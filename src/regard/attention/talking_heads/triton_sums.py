"""Triton functions of talking-heads attention that sum over pairs of tokens: statistics and gradients of the mixes."""

import triton
import triton.language as tl

from regard.attention.talking_heads.triton_heads import mixed_tiles


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
def store_sums(pointer, sums, skipped, COUNT: tl.constexpr):
    """Store the sum of every vector but the first `skipped`, one after another."""
    for place in tl.static_range(COUNT):
        tl.store(pointer + place, tl.sum(sums[place], axis=0), mask=skipped <= place)


@triton.jit
def add_to_statistics(
    maxima, sums, dots, logits, gradients, inside, HEADS: tl.constexpr, EVEN: tl.constexpr, HAS_GRAD: tl.constexpr
):
    """Add a tile to the rows' maxima, sums of powers, and sums of powers multiplied by gradients."""
    new_maxima, new_sums, new_dots = (), (), ()
    for head in tl.static_range(HEADS):
        tile = logits[head]
        if not EVEN:
            tile = tl.where(inside[None, :], tile, float("-inf"))
        maximum = tl.maximum(maxima[head], tl.max(tile, axis=1))
        finite = tl.where(maximum == float("-inf"), 0.0, maximum)
        decay = tl.exp2(maxima[head] - finite)
        weights = tl.exp2(tile - finite[:, None])
        new_maxima = new_maxima + (maximum,)
        new_sums = new_sums + (sums[head] * decay + tl.sum(weights, axis=1),)
        if HAS_GRAD:
            weights *= gradients[head]
            if not EVEN:
                weights = tl.where(inside[None, :], weights, 0.0)
            new_dots = new_dots + (dots[head] * decay + tl.sum(weights, axis=1),)
        else:
            new_dots = new_dots + (dots[head],)
    return new_maxima, new_sums, new_dots


@triton.jit
def store_statistics(
    lse, maxima_at, delta, queries, exists, maxima, sums, dots, shared, HEADS: tl.constexpr, HAS_GRAD: tl.constexpr
):
    """Store what `add_to_statistics` has added, head after head, but the first `shared`."""
    for head in tl.static_range(HEADS):
        mask = exists & (shared <= head)
        if maxima_at is None:
            tl.store(lse + head * queries, tl.log2(sums[head]) + maxima[head], mask=mask)
        else:
            tl.store(lse + head * queries, tl.log2(sums[head]), mask=mask)
            tl.store(maxima_at + head * queries, maxima[head], mask=mask)
        if HAS_GRAD:
            tl.store(delta + head * queries, dots[head] / sums[head], mask=mask)


@triton.jit
def add_to_sums(
    sums,
    products,
    weight_grads,
    starts,
    shifts,
    grad_starts,
    logits_mix,
    weights_mix,
    inside,
    KEY_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    VALUE_HEADS: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    THREADS: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Add a tile of pairs to the sums of `mix_grads`."""
    logits_sums, weights_sums, bias_sums = (), (), ()
    for head in tl.static_range(GROUP):
        if shifts is None:
            logits = mixed_tiles(starts[head], products, logits_mix + head * KEY_HEADS, 1, KEY_HEADS)
            grads = mixed_tiles(grad_starts[head], weight_grads, weights_mix + head, HEADS, VALUE_HEADS)
        else:
            logits = (
                mixed_tiles(0.0, products, logits_mix + head * KEY_HEADS, 1, KEY_HEADS) + shifts[head] + starts[head]
            )
            grads = mixed_tiles(0.0, weight_grads, weights_mix + head, HEADS, VALUE_HEADS) + grad_starts[head]
        weights = tl.exp2(logits)
        if not EVEN:
            weights = tl.where(inside, weights, 0.0)
        grads *= weights
        for other in tl.static_range(KEY_HEADS):
            added = partial_sums(grads * products[other], THREADS, NUMBERS)
            logits_sums = logits_sums + (sums[0][head * KEY_HEADS + other] + added,)
        for other in tl.static_range(VALUE_HEADS):
            added = partial_sums(weights * weight_grads[other], THREADS, NUMBERS)
            weights_sums = weights_sums + (sums[1][head * VALUE_HEADS + other] + added,)
    for other in tl.static_range(VALUE_HEADS):
        bias_sums = bias_sums + (sums[2][other] + partial_sums(weight_grads[other], THREADS, NUMBERS),)
    return logits_sums, weights_sums, bias_sums
