"""The GPU kernels of talking-heads attention, in Triton.

A program has a tile of pairs of tokens on chip for all heads at once, since every head after a mix needs all heads before
it. The mixes are sums of tiles multiplied by numbers. No weights are in memory: every kernel makes them again, from the
log-sum-exps that `statistics` stores.

Every kernel takes tokens `[B, N, nh, hd]` of any strides, and has logits in the base 2: `logits_mix` comes multiplied by
the scale and log2(e). Batch entries and groups of heads are program ids above those of the tiles.
"""

import triton
import triton.language as tl

from regard.attention.talking_heads.gpu_heads import (
    add_mixed,
    add_products,
    mixed_weights,
    zero_tiles,
    again,
    head_products,
    load_heads,
    load_statistics,
    masked,
    mixed_products,
    mixed_tiles,
    multiply,
    partial_sums,
    powers,
    row_places,
    same,
    store_heads,
    store_sums,
    zero_heads,
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
    HAS_GRAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the log-sum-exps `[B, h, N]` and, in a backward pass, the mean gradients of the weights, `delta`."""
    tiles = tl.cdiv(queries, BLOCK_M)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < queries
    own = load_heads(query, row_places(batch, rows, query_strides), exists, query_strides, HEADS[0], QUERY)
    if HAS_GRAD:
        grads = load_heads(grad_out, row_places(batch, rows, grad_strides), exists, grad_strides, HEADS[2], VALUE)
    maxima = same(tl.full([BLOCK_M], float("-inf"), tl.float32), HEADS[1])
    sums, dots = zero_sums(BLOCK_M, HEADS[1]), zero_sums(BLOCK_M, HEADS[1])
    for start in range(0, keys, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < keys
        other = load_heads(key, row_places(batch, columns, key_strides), inside, key_strides, HEADS[0], QUERY)
        logits = mixed_products(
            same(0.0, HEADS[1]), own, other, logits_mix + again(start), HEADS[0], 1, HEADS[0], HEADS[1], QUERY[2], PRECISION
        )
        gradients = logits
        if HAS_GRAD:
            others = load_heads(
                value, row_places(batch, columns, value_strides), inside, value_strides, HEADS[2], VALUE
            )
            gradients = mixed_products(
                same(0.0, HEADS[1]), grads, others, weights_mix + again(start), 1, HEADS[1], HEADS[2], HEADS[1], VALUE[2], PRECISION
            )
        maxima, sums, dots = add_to_statistics(maxima, sums, dots, logits, gradients, inside, HEADS[1], EVEN, HAS_GRAD)
    places = batch * HEADS[1] * queries + rows
    store_statistics(lse + places, delta + places, queries, exists, maxima, sums, dots, HEADS[1], HAS_GRAD)


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
    lse, delta, queries, exists, maxima, sums, dots, HEADS: tl.constexpr, HAS_GRAD: tl.constexpr
):
    """Store what `add_to_statistics` has added, head after head."""
    for head in tl.static_range(HEADS):
        tl.store(lse + head * queries, tl.log2(sums[head]) + maxima[head], mask=exists)
        if HAS_GRAD:
            tl.store(delta + head * queries, dots[head] / sums[head], mask=exists)


@triton.jit
def weighted_sums(
    own_tokens,
    other_tokens,
    values,
    lse,
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
    OWN_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store sums of values with mixed weights: the output, or where programs own keys, the gradient of the values.

    A program has BLOCK_M tokens and GROUP value heads. The last group ends with the last head, and may share heads with
    the group before: both store the same numbers.
    """
    tiles = tl.cdiv(own_count, BLOCK_M)
    groups: tl.constexpr = (HEADS[2] + GROUP - 1) // GROUP
    begin = tl.minimum(tl.program_id(0) // tiles % groups * GROUP, HEADS[2] - GROUP).to(tl.int64)
    batch = (tl.program_id(0) // tiles // groups).to(tl.int64)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < own_count
    own = load_heads(own_tokens, row_places(batch, rows, own_strides), exists, own_strides, HEADS[0], QUERY)
    if OWN_QUERIES:
        lse += batch * HEADS[1] * own_count
        sums = load_statistics(lse, rows, own_count, 0.0, HEADS[1], True)
    else:
        lse += batch * HEADS[1] * other_count
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
            other_tokens, row_places(batch, columns, other_strides), inside, other_strides, HEADS[0], QUERY
        )
        loaded = load_heads(values, row_places(batch, columns, value_strides), inside, value_strides, GROUP, VALUE)
        if not OWN_QUERIES:
            sums = load_statistics(lse, columns, other_count, float("inf"), HEADS[1], False)
        weights = zero_tiles(BLOCK_M, BLOCK_N, GROUP, values.dtype.element_ty)
        if start < other_count:
            logits = mixed_products(
                sums, own, other, logits_mix + again(start), HEADS[0], 1, HEADS[0], HEADS[1], QUERY[2], PRECISION
            )
            weights = mixed_weights(
                powers(logits, HEADS[1]), weights_mix + again(start), HEADS[1], 1, weights_bias, inside,
                HEADS[1], GROUP, EVEN, values.dtype.element_ty,
            )  # fmt: skip
        totals = add_products(totals, weights, loaded, GROUP, VALUE[2], PRECISION)
    places = row_places(batch, rows, out_strides)
    store_heads(out, places, exists, out_strides, totals[0], totals[1], 1.0, GROUP, VALUE)


@triton.jit
def token_grads(
    own_tokens,
    other_tokens,
    own_values,
    other_values,
    lse,
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
    OWN_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the gradient of the queries or, where programs own keys, of the keys, for GROUP key heads per program.

    The values of queries are their outputs' gradients. `product_mix` is the mix of the logits without any factor.
    """
    tiles = tl.cdiv(own_count, BLOCK_M)
    groups: tl.constexpr = (HEADS[0] + GROUP - 1) // GROUP
    begin = tl.minimum(tl.program_id(0) // tiles % groups * GROUP, HEADS[0] - GROUP).to(tl.int64)
    batch = (tl.program_id(0) // tiles // groups).to(tl.int64)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < own_count
    own = load_heads(own_tokens, row_places(batch, rows, own_strides), exists, own_strides, HEADS[0], QUERY)
    own_places = row_places(batch, rows, own_value_strides)
    own_value = load_heads(own_values, own_places, exists, own_value_strides, HEADS[2], VALUE)
    if OWN_QUERIES:
        first = batch * HEADS[1] * own_count
        starts = load_statistics(lse + first, rows, own_count, 0.0, HEADS[1], True)
        grad_starts = load_statistics(delta + first, rows, own_count, 0.0, HEADS[1], True)
    else:
        first = batch * HEADS[1] * other_count
    totals = zero_heads(BLOCK_M, GROUP, QUERY)
    for start in range(0, other_count, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < other_count
        places = row_places(batch, columns, other_strides)
        other = load_heads(other_tokens, places, inside, other_strides, HEADS[0], QUERY)
        value_places = row_places(batch, columns, other_value_strides)
        other_value = load_heads(other_values, value_places, inside, other_value_strides, HEADS[2], VALUE)
        if not OWN_QUERIES:
            starts = load_statistics(lse + first, columns, other_count, float("inf"), HEADS[1], False)
            grad_starts = load_statistics(delta + first, columns, other_count, 0.0, HEADS[1], False)
        logits = mixed_products(starts, own, other, logits_mix + again(start), HEADS[0], 1, HEADS[0], HEADS[1], QUERY[2], PRECISION)
        weights = powers(logits, HEADS[1])
        grads = mixed_products(
            grad_starts, own_value, other_value, weights_mix + again(start), 1, HEADS[1], HEADS[2], HEADS[1], VALUE[2], PRECISION
        )
        if groups > 1:
            places += begin * other_strides[2]
            other = load_heads(other_tokens, places, inside, other_strides, GROUP, QUERY)
        totals = add_mixed(
            totals, multiply(weights, grads, HEADS[1]), other, product_mix + begin + again(start), 1, HEADS[0], None, inside,
            HEADS[1], GROUP, EVEN, QUERY[2], PRECISION,
        )  # fmt: skip
    places = row_places(batch, rows, out_strides) + begin * out_strides[2]
    store_heads(out, places, exists, out_strides, totals[0], totals[1], scale, GROUP, QUERY)


@triton.jit
def mix_grads(
    query,
    key,
    grad_out,
    value,
    lse,
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
    groups: tl.constexpr = (HEADS[1] + GROUP - 1) // GROUP
    begin = tl.minimum(tl.program_id(0) // tiles % groups * GROUP, HEADS[1] - GROUP)
    batch = (tl.program_id(0) // tiles // groups).to(tl.int64)
    rows = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < queries
    own = load_heads(query, row_places(batch, rows, query_strides), exists, query_strides, HEADS[0], QUERY)
    grads = load_heads(grad_out, row_places(batch, rows, grad_strides), exists, grad_strides, HEADS[2], VALUE)
    first = (batch * HEADS[1] + begin) * queries
    starts = load_statistics(lse + first, rows, queries, float("inf"), GROUP, True)
    grad_starts = load_statistics(delta + first, rows, queries, 0.0, GROUP, True)
    sums = (
        zero_sums(THREADS, GROUP * HEADS[0]), zero_sums(THREADS, GROUP * HEADS[2]), zero_sums(THREADS, HEADS[2])
    )  # fmt: skip
    for start in range(0, keys, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = columns < keys
        other = load_heads(key, row_places(batch, columns, key_strides), inside, key_strides, HEADS[0], QUERY)
        others = load_heads(value, row_places(batch, columns, value_strides), inside, value_strides, HEADS[2], VALUE)
        products = head_products(own, other, HEADS[0], QUERY[2], PRECISION)
        weight_grads = head_products(grads, others, HEADS[2], VALUE[2], PRECISION)
        inside = exists[:, None] & inside[None, :]
        if not EVEN:
            products, weight_grads = masked(products, inside, HEADS[0]), masked(weight_grads, inside, HEADS[2])
        sums = add_to_sums(
            sums, products, weight_grads, starts, grad_starts, logits_mix + begin * HEADS[0] + again(start), weights_mix + begin + again(start),
            inside, HEADS, EVEN, GROUP, THREADS, BLOCK_M * BLOCK_N // THREADS,
        )  # fmt: skip
    row = batch * tiles + tl.program_id(0) % tiles
    store_sums(logits_sums + (row * HEADS[1] + begin) * HEADS[0], sums[0], GROUP * HEADS[0])
    store_sums(weights_sums + (row * HEADS[1] + begin) * HEADS[2], sums[1], GROUP * HEADS[2])
    if begin == 0:
        store_sums(bias_sums + row * HEADS[2], sums[2], HEADS[2])


@triton.jit
def add_to_sums(
    sums,
    products,
    weight_grads,
    starts,
    grad_starts,
    logits_mix,
    weights_mix,
    inside,
    HEADS: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    THREADS: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Add a tile of pairs to the sums of `mix_grads`."""
    logits_sums, weights_sums, bias_sums = (), (), ()
    for head in tl.static_range(GROUP):
        weights = tl.exp2(mixed_tiles(starts[head], products, logits_mix + head * HEADS[0], 1, HEADS[0]))
        if not EVEN:
            weights = tl.where(inside, weights, 0.0)
        grads = mixed_tiles(grad_starts[head], weight_grads, weights_mix + head, HEADS[1], HEADS[2]) * weights
        for other in tl.static_range(HEADS[0]):
            added = partial_sums(grads * products[other], THREADS, NUMBERS)
            logits_sums = logits_sums + (sums[0][head * HEADS[0] + other] + added,)
        for other in tl.static_range(HEADS[2]):
            added = partial_sums(weights * weight_grads[other], THREADS, NUMBERS)
            weights_sums = weights_sums + (sums[1][head * HEADS[2] + other] + added,)
    for other in tl.static_range(HEADS[2]):
        bias_sums = bias_sums + (sums[2][other] + partial_sums(weight_grads[other], THREADS, NUMBERS),)
    return logits_sums, weights_sums, bias_sums
