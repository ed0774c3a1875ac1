"""The GPU kernels of talking-heads attention, in Triton.

A program has a tile of pairs of tokens on chip for all heads at once, since every head after a mix needs all heads
before it. The mixes are sums of tiles multiplied by numbers. No weights are in memory: every kernel makes them again,
from the log-sum-exps that `statistics` stores.

Every kernel takes tokens `[B, N, nh, hd]` of any strides, and has logits in the base 2: `logits_mix` comes multiplied
by the scale and log2(e). Batch entries and groups of heads are program ids above those of the tiles.
"""

import triton
import triton.language as tl

from regard.attention.talking_heads.triton_heads import (
    add_products,
    again,
    group_of,
    head_products,
    load_heads,
    load_statistics,
    masked,
    mixed_products,
    multiply,
    rounded_mix,
    row_places,
    same,
    softmax_weights,
    store_heads,
    zero_heads,
    zero_tiles,
)
from regard.attention.talking_heads.triton_sums import (
    add_to_statistics,
    add_to_sums,
    store_statistics,
    store_sums,
    zero_sums,
)


@triton.jit
def statistics(
    query,
    key,
    grad_out,
    value,
    logits_mix,
    weights_mix,
    lse,
    lse_maxima,
    delta,
    query_strides,
    key_strides,
    grad_strides,
    value_strides,
    queries,
    keys,
    HEADS: tl.constexpr,
    QUERY: tl.constexpr,
    VALUE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the log-sum-exps `[B, h, N]` and, in a backward pass, the mean gradients of the weights, `delta`.

    A program has BLOCK_M queries and GROUP softmax heads.
    """
    tiles = tl.cdiv(queries, BLOCK_M)
    batch, begin, shared = group_of(tl.program_id(0) // tiles, HEADS[1], GROUP)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < queries
    own_places = row_places(batch, rows, query_strides)
    own = load_heads(query, own_places, exists, query_strides, HEADS[0], QUERY, KEEP)
    if HAS_GRAD:
        grad_places = row_places(batch, rows, grad_strides)
        grads = load_heads(grad_out, grad_places, exists, grad_strides, HEADS[2], VALUE, KEEP)
    logits_mix += begin * HEADS[0]
    weights_mix += begin
    maxima = same(tl.full([BLOCK_M], float("-inf"), tl.float32), GROUP)
    sums, dots = zero_sums(BLOCK_M, GROUP), zero_sums(BLOCK_M, GROUP)
    for start in range(0, keys, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < keys
        if not KEEP:
            own = load_heads(query, own_places + again(start), exists, query_strides, HEADS[0], QUERY, KEEP)
        other = load_heads(key, row_places(batch, columns, key_strides), inside, key_strides, HEADS[0], QUERY, KEEP)
        logits = mixed_products(
            same(0.0, GROUP), own, other, logits_mix + again(start), HEADS[0], 1,
            HEADS[0], GROUP, QUERY, PRECISION, KEEP, False, True,
        )  # fmt: skip
        gradients = logits
        if HAS_GRAD:
            if not KEEP:
                grads = load_heads(grad_out, grad_places + again(start), exists, grad_strides, HEADS[2], VALUE, KEEP)
            others = load_heads(
                value, row_places(batch, columns, value_strides), inside, value_strides, HEADS[2], VALUE, KEEP
            )
            gradients = mixed_products(
                same(0.0, GROUP), grads, others, weights_mix + again(start), 1, HEADS[1],
                HEADS[2], GROUP, VALUE, PRECISION, KEEP, False, True,
            )  # fmt: skip
        maxima, sums, dots = add_to_statistics(maxima, sums, dots, logits, gradients, inside, GROUP, EVEN, HAS_GRAD)
    places = (batch * HEADS[1] + begin) * queries + rows
    if lse_maxima is not None:
        lse_maxima += places
    store_statistics(
        lse + places, lse_maxima, delta + places, queries, exists, maxima, sums, dots, shared, GROUP, HAS_GRAD
    )


@triton.jit
def weighted_sums(
    own_tokens,
    other_tokens,
    values,
    lse,
    maxima,
    logits_mix,
    weights_mix,
    weights_bias,
    out,
    own_strides,
    other_strides,
    value_strides,
    out_strides,
    own_count,
    other_count,
    HEADS: tl.constexpr,
    QUERY: tl.constexpr,
    VALUE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    OWN_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store sums of values with mixed weights: the output, or where programs own keys, the gradient of the values.

    A program has BLOCK_M tokens and GROUP value heads.
    """
    tiles = tl.cdiv(own_count, BLOCK_M)
    batch, begin, shared = group_of(tl.program_id(0) // tiles, HEADS[2], GROUP)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < own_count
    own_places = row_places(batch, rows, own_strides)
    own = load_heads(own_tokens, own_places, exists, own_strides, HEADS[0], QUERY, KEEP)
    queries = own_count if OWN_QUERIES else other_count
    lse += batch * HEADS[1] * queries
    if maxima is not None:
        maxima += batch * HEADS[1] * queries
    values += begin * value_strides[2]
    out += begin * out_strides[2]
    weights_mix += begin * HEADS[1]
    if weights_bias is not None:
        weights_bias += begin
    totals = zero_heads(BLOCK_M, GROUP, VALUE)
    for start in range(0, other_count, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < other_count
        other = load_heads(
            other_tokens, row_places(batch, columns, other_strides), inside, other_strides, HEADS[0], QUERY, KEEP
        )
        loaded = load_heads(
            values, row_places(batch, columns, value_strides), inside, value_strides, GROUP, VALUE, KEEP
        )
        if not KEEP:
            own = load_heads(own_tokens, own_places + again(start), exists, own_strides, HEADS[0], QUERY, KEEP)
        tokens = rows if OWN_QUERIES else columns
        weights = zero_tiles(BLOCK_M, BLOCK_N, GROUP, values.dtype.element_ty)
        # Always true. In a branch, the products of logits are not chained to those of values, for which Triton would
        # place all warps along the rows, and the numbers of the mixes are not copied to shared memory.
        if start < other_count:
            own_weights = softmax_weights(
                own, other, logits_mix, lse, maxima, again(start), tokens, queries,
                HEADS[0], HEADS[1], QUERY, PRECISION, KEEP, OWN_QUERIES,
            )  # fmt: skip
            weights = rounded_mix(
                own_weights, weights_mix + again(start), HEADS[1], 1, weights_bias, inside,
                HEADS[1], GROUP, EVEN, values.dtype.element_ty,
            )  # fmt: skip
        totals = add_products(totals, weights, loaded, GROUP, VALUE, PRECISION, KEEP)
    places = row_places(batch, rows, out_strides)
    store_heads(out, places, exists, out_strides, totals, shared, 1.0, GROUP, VALUE)


@triton.jit
def token_grads(
    own_tokens,
    other_tokens,
    own_values,
    other_values,
    lse,
    maxima,
    delta,
    logits_mix,
    weights_mix,
    product_mix,
    out,
    own_strides,
    other_strides,
    own_value_strides,
    other_value_strides,
    out_strides,
    own_count,
    other_count,
    scale,
    HEADS: tl.constexpr,
    QUERY: tl.constexpr,
    VALUE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    OWN_QUERIES: tl.constexpr,
    PRODUCT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the gradient of the queries or, where programs own keys, of the keys, for GROUP key heads per program.

    PRODUCT is QUERY in the parts in which the gradient is summed. The values of queries are their outputs' gradients.
    `product_mix` is the mix of the logits without any factor.
    """
    tiles = tl.cdiv(own_count, BLOCK_M)
    batch, begin, shared = group_of(tl.program_id(0) // tiles, HEADS[0], GROUP)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < own_count
    own_at, own_value_at = row_places(batch, rows, own_strides), row_places(batch, rows, own_value_strides)
    own = load_heads(own_tokens, own_at, exists, own_strides, HEADS[0], QUERY, KEEP)
    own_value = load_heads(own_values, own_value_at, exists, own_value_strides, HEADS[2], VALUE, KEEP)
    queries = own_count if OWN_QUERIES else other_count
    lse += batch * HEADS[1] * queries
    if maxima is not None:
        maxima += batch * HEADS[1] * queries
    delta += batch * HEADS[1] * queries
    totals = zero_heads(BLOCK_M, GROUP, PRODUCT)
    for start in range(0, other_count, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < other_count
        if not KEEP:
            own = load_heads(own_tokens, own_at + again(start), exists, own_strides, HEADS[0], QUERY, KEEP)
            own_value = load_heads(
                own_values, own_value_at + again(start), exists, own_value_strides, HEADS[2], VALUE, KEEP
            )
        places = row_places(batch, columns, other_strides)
        other = load_heads(other_tokens, places, inside, other_strides, HEADS[0], QUERY, KEEP)
        value_places = row_places(batch, columns, other_value_strides)
        other_value = load_heads(other_values, value_places, inside, other_value_strides, HEADS[2], VALUE, KEEP)
        rounded = zero_tiles(BLOCK_M, BLOCK_N, GROUP, other_tokens.dtype.element_ty)
        if start < other_count:  # as in weighted_sums
            tokens = rows if OWN_QUERIES else columns
            weights = softmax_weights(
                own, other, logits_mix, lse, maxima, again(start), tokens, queries,
                HEADS[0], HEADS[1], QUERY, PRECISION, KEEP, OWN_QUERIES,
            )  # fmt: skip
            starts = load_statistics(delta + again(start), tokens, queries, 0.0, HEADS[1], OWN_QUERIES)
            grads = mixed_products(
                starts, own_value, other_value, weights_mix + again(start), 1, HEADS[1],
                HEADS[2], HEADS[1], VALUE, PRECISION, KEEP, maxima is not None, OWN_QUERIES,
            )  # fmt: skip
            rounded = rounded_mix(
                multiply(weights, grads, HEADS[1]), product_mix + begin + again(start), 1, HEADS[0], None, inside,
                HEADS[1], GROUP, EVEN, other_tokens.dtype.element_ty,
            )  # fmt: skip
        if HEADS[0] > GROUP or len(PRODUCT[0]) != len(QUERY[0]):
            places += begin * other_strides[2]
            other = load_heads(other_tokens, places, inside, other_strides, GROUP, PRODUCT, KEEP)
        totals = add_products(totals, rounded, other, GROUP, PRODUCT, PRECISION, KEEP)
    places = row_places(batch, rows, out_strides) + begin * out_strides[2]
    store_heads(out, places, exists, out_strides, totals, shared, scale, GROUP, PRODUCT)


@triton.jit
def mix_grads(
    query,
    key,
    grad_out,
    value,
    lse,
    maxima,
    delta,
    logits_mix,
    weights_mix,
    logits_sums,
    weights_sums,
    bias_sums,
    query_strides,
    key_strides,
    grad_strides,
    value_strides,
    queries,
    keys,
    HEADS: tl.constexpr,
    QUERY: tl.constexpr,
    VALUE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    GROUP: tl.constexpr,
    THREADS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store what BLOCK_M queries add to the gradients of the mixes and of the weights' bias, for GROUP softmax heads.

    These are `[programs of the tiles, h, h_k]` without the scale, `[programs of the tiles, h, h_v]` and
    `[programs of the tiles, h_v]`.
    """
    tiles = tl.cdiv(queries, BLOCK_M)
    batch, begin, shared = group_of(tl.program_id(0) // tiles, HEADS[1], GROUP)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < queries
    own_places, grad_places = row_places(batch, rows, query_strides), row_places(batch, rows, grad_strides)
    own = load_heads(query, own_places, exists, query_strides, HEADS[0], QUERY, KEEP)
    grads = load_heads(grad_out, grad_places, exists, grad_strides, HEADS[2], VALUE, KEEP)
    first = (batch * HEADS[1] + begin) * queries
    starts = load_statistics(lse + first, rows, queries, float("inf"), GROUP, True)
    shifts = None
    if maxima is not None:
        shifts = load_statistics(maxima + first, rows, queries, 0.0, GROUP, True)
    grad_starts = load_statistics(delta + first, rows, queries, 0.0, GROUP, True)
    sums = (
        zero_sums(THREADS, GROUP * HEADS[0]), zero_sums(THREADS, GROUP * HEADS[2]), zero_sums(THREADS, HEADS[2])
    )  # fmt: skip
    for start in range(0, keys, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < keys
        if not KEEP:
            own = load_heads(query, own_places + again(start), exists, query_strides, HEADS[0], QUERY, KEEP)
            grads = load_heads(grad_out, grad_places + again(start), exists, grad_strides, HEADS[2], VALUE, KEEP)
        other = load_heads(key, row_places(batch, columns, key_strides), inside, key_strides, HEADS[0], QUERY, KEEP)
        others = load_heads(
            value, row_places(batch, columns, value_strides), inside, value_strides, HEADS[2], VALUE, KEEP
        )
        products = head_products(own, other, HEADS[0], QUERY, PRECISION, KEEP)
        weight_grads = head_products(grads, others, HEADS[2], VALUE, PRECISION, KEEP)
        inside = exists[:, None] & inside[None, :]
        if not EVEN:
            products, weight_grads = masked(products, inside, HEADS[0]), masked(weight_grads, inside, HEADS[2])
        sums = add_to_sums(
            sums, products, weight_grads, starts, shifts, grad_starts,
            logits_mix + begin * HEADS[0] + again(start), weights_mix + begin + again(start), inside,
            HEADS[0], HEADS[1], HEADS[2], EVEN, GROUP, THREADS, BLOCK_M * BLOCK_N // THREADS,
        )  # fmt: skip
    row = batch * tiles + tl.program_id(0) % tiles
    store_sums(logits_sums + (row * HEADS[1] + begin) * HEADS[0], sums[0], shared * HEADS[0], GROUP * HEADS[0])
    store_sums(weights_sums + (row * HEADS[1] + begin) * HEADS[2], sums[1], shared * HEADS[2], GROUP * HEADS[2])
    if begin == 0:
        store_sums(bias_sums + row * HEADS[2], sums[2], 0, HEADS[2])
