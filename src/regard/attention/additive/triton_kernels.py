"""The GPU kernels of additive attention, in Triton. They pool twice: the queries, then the keys times the pooled query.

A program works on the tokens of one part of one batch entry. The scores of all heads come from one tile: a sum of
products over the channels of all heads for each of them. The loop over `num_heads` is not unrolled, since that takes
too many registers.
"""

import triton
import triton.language as tl

from regard.gpu import triton_pooling as pooling


@triton.jit
def load_scoring(weight, head, SHAPE: tl.constexpr):
    """Load the vector that scores a head, `[heads, channels]`, from `[heads, heads * channels]`."""
    row = tl.arange(0, SHAPE[3])[:, None] * SHAPE[2] + tl.arange(0, SHAPE[4])[None, :]
    places = weight + head * (SHAPE[1] * SHAPE[2]) + row
    return tl.load(places, mask=pooling.exist(SHAPE), other=0.0).to(tl.float32)


@triton.jit
def score_rows(rows, weight, num_heads, scale, SHAPE: tl.constexpr):
    """Score a tile's rows for every head: `[tokens, heads]`."""
    heads = tl.arange(0, SHAPE[3])
    scores = tl.full([SHAPE[0], SHAPE[3]], 0.0, tl.float32)
    for head in range(num_heads):
        scoring = load_scoring(weight, head, SHAPE) * scale
        score = tl.sum(tl.sum(rows * scoring[None, :, :], 2), 1)
        scores = tl.where((heads == head)[None, :], score[:, None], scores)
    return scores


@triton.jit
def score_rows_backward(score_grads, weight, num_heads, scale, SHAPE: tl.constexpr):
    """Return the gradient of a tile's rows, from those of their scores."""
    heads = tl.arange(0, SHAPE[3])
    grads = pooling.zero_tile(SHAPE)
    for head in range(num_heads):
        scoring = load_scoring(weight, head, SHAPE) * scale
        one = tl.sum(tl.where((heads == head)[None, :], score_grads, 0.0), 1)
        grads += one[:, None, None] * scoring[None, :, :]
    return grads


@triton.jit(do_not_specialize=["count", "parts", "tiles", "num_heads"])
def pool(
    tokens_pointer,
    weight,
    contexts,
    statistics,
    scores_pointer,
    query_contexts,
    query_statistics,
    grad_out,
    sums,
    steps,
    grad_steps,
    count,
    parts,
    tiles,
    num_heads,
    scale,
    SHAPE: tl.constexpr,
):
    """Pool the tokens of a part; of keys, their products with the global query, joined from `query_contexts`.

    The backward pass needs the scores, `[B, count, heads]`, and of queries the sums of their products with `grad_out`.
    """
    place = tl.program_id(0).to(tl.int64)
    batch = place // parts
    if query_contexts is not None:
        _, query_total, query = pooling.join_pools(query_contexts, query_statistics, batch * parts, parts, SHAPE)
        query = query / query_total[:, None]
    top, total, context = pooling.empty_pools(SHAPE)
    products = pooling.zero_tile(SHAPE)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        rows = pooling.load_tile(tokens_pointer, steps, batch, tokens, inside, SHAPE)
        if query_contexts is not None:
            rows = rows * query[None, :, :]
        scores = score_rows(rows, weight, num_heads, scale, SHAPE)
        if scores_pointer is not None:
            pooling.store_scores(scores_pointer, batch * count + tokens, inside, scores, SHAPE)
        scores = tl.where(inside[:, None], scores, -float("inf"))
        top, total, context = pooling.add_pools(top, total, context, scores, 1.0, rows)
        if grad_out is not None:
            products += rows * pooling.load_tile(grad_out, grad_steps, batch, tokens, inside, SHAPE)
    pooling.store_pool(contexts, statistics, place, top, total, context, SHAPE)
    if grad_out is not None:
        pooling.store_sums(sums, place, tl.sum(products, 0), SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles"])
def multiply(
    out, query, key_contexts, key_statistics, out_steps, query_steps, count, parts, tiles, SHAPE: tl.constexpr
):
    """Multiply the queries of a part with the global key."""
    place = tl.program_id(0).to(tl.int64)
    batch = place // parts
    _, total, key = pooling.join_pools(key_contexts, key_statistics, batch * parts, parts, SHAPE)
    key = key / total[:, None]
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        rows = pooling.load_tile(query, query_steps, batch, tokens, inside, SHAPE)
        pooling.store_tile(out, out_steps, batch, tokens, inside, rows * key[None, :, :], SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles", "num_heads"])
def backward_key(
    grad_key,
    key,
    weight,
    scores_pointer,
    score_grads_pointer,
    query_contexts,
    query_statistics,
    key_contexts,
    key_statistics,
    key_sums,
    query_sums,
    queries,
    grad_steps,
    steps,
    count,
    parts,
    tiles,
    num_heads,
    scale,
    SHAPE: tl.constexpr,
):
    """Write the gradients of a part's keys and of their scores.

    It reads the gradient of the global key, joined from `key_sums`. It writes the part's share in the gradient of the
    global query to `query_sums`, and the global query to `queries`.
    """
    place = tl.program_id(0).to(tl.int64)
    batch, first = place // parts, place // parts * parts
    _, total, query = pooling.join_pools(query_contexts, query_statistics, first, parts, SHAPE)
    query = query / total[:, None]
    base, total, context = pooling.join_pools(key_contexts, key_statistics, first, parts, SHAPE)
    context = context / total[:, None]
    context_grad = pooling.join_sums(key_sums, first, parts, SHAPE)
    if place == first:
        pooling.store_sums(queries, batch, query, SHAPE)
    query_grad = pooling.zero_tile(SHAPE)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        rows = pooling.load_tile(key, steps, batch, tokens, inside, SHAPE)
        scores = pooling.load_scores(scores_pointer, batch * count + tokens, inside, SHAPE)
        weights = tl.exp(scores - base[None, :]) / total[None, :]
        products = rows * query[None, :, :]
        score_grads = pooling.softmax_backward(weights, products, context, context_grad)
        pooling.store_scores(score_grads_pointer, batch * count + tokens, inside, score_grads, SHAPE)
        grads = context_grad[None, :, :] * weights[:, :, None]
        grads += score_rows_backward(score_grads, weight, num_heads, scale, SHAPE)
        query_grad += grads * rows
        pooling.store_tile(grad_key, grad_steps, batch, tokens, inside, grads * query[None, :, :], SHAPE)
    pooling.store_sums(query_sums, place, tl.sum(query_grad, 0), SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles", "num_heads"])
def backward_query(
    grad_query,
    query,
    grad_out,
    weight,
    scores_pointer,
    score_grads_pointer,
    query_contexts,
    query_statistics,
    key_contexts,
    key_statistics,
    query_sums,
    grad_steps,
    steps,
    out_steps,
    count,
    parts,
    tiles,
    num_heads,
    scale,
    SHAPE: tl.constexpr,
):
    """Write the gradients of a part's queries and of their scores."""
    place = tl.program_id(0).to(tl.int64)
    batch, first = place // parts, place // parts * parts
    _, total, key = pooling.join_pools(key_contexts, key_statistics, first, parts, SHAPE)
    key = key / total[:, None]
    base, total, context = pooling.join_pools(query_contexts, query_statistics, first, parts, SHAPE)
    context = context / total[:, None]
    context_grad = pooling.join_sums(query_sums, first, parts, SHAPE)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        rows = pooling.load_tile(query, steps, batch, tokens, inside, SHAPE)
        scores = pooling.load_scores(scores_pointer, batch * count + tokens, inside, SHAPE)
        weights = tl.exp(scores - base[None, :]) / total[None, :]
        score_grads = pooling.softmax_backward(weights, rows, context, context_grad)
        pooling.store_scores(score_grads_pointer, batch * count + tokens, inside, score_grads, SHAPE)
        grads = context_grad[None, :, :] * weights[:, :, None]
        grads += score_rows_backward(score_grads, weight, num_heads, scale, SHAPE)
        grads += pooling.load_tile(grad_out, out_steps, batch, tokens, inside, SHAPE) * key[None, :, :]
        pooling.store_tile(grad_query, grad_steps, batch, tokens, inside, grads, SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles"])
def backward_weight(
    grads,
    score_grads,
    tokens_pointer,
    queries,
    steps,
    count,
    parts,
    tiles,
    scale,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS_TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write a part's share in the gradient of a weight, `[B * parts, heads, heads * channels]`, for a tile of it.

    Of keys, the rows are their products with `queries`, the global queries, `[B, heads * channels]`.
    """
    program = tl.program_id(0).to(tl.int64)
    blocks: tl.constexpr = (HEADS * DIM + WIDTH - 1) // WIDTH
    groups: tl.constexpr = (HEADS + HEADS_TILE - 1) // HEADS_TILE
    place = program // (blocks * groups)
    batch = place // parts
    heads = program // blocks % groups * HEADS_TILE + tl.arange(0, HEADS_TILE)
    channels = program % blocks * WIDTH + tl.arange(0, WIDTH)
    exist = channels < HEADS * DIM
    columns = batch * steps[0] + channels // DIM * steps[2] + channels % DIM * steps[3]
    sums = tl.full([HEADS_TILE, WIDTH], 0.0, tl.float32)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * TOKENS + tl.arange(0, TOKENS)
        inside = tokens < count
        places = tokens_pointer + (tokens * steps[1])[:, None] + columns[None, :]
        rows = tl.load(places, mask=inside[:, None] & exist[None, :], other=0.0).to(tl.float32)
        if queries is not None:
            query = tl.load(queries + batch * (HEADS * DIM) + channels, mask=exist, other=0.0)
            rows = rows * query[None, :]
        places = score_grads + (batch * count + tokens)[None, :] * HEADS + heads[:, None]
        factors = tl.load(places, mask=inside[None, :] & (heads < HEADS)[:, None], other=0.0)
        sums = tl.dot(factors, rows, sums, input_precision=PRECISION)
    places = grads + (place * HEADS + heads)[:, None] * (HEADS * DIM) + channels[None, :]
    tl.store(places, sums * scale, mask=(heads < HEADS)[:, None] & exist[None, :])
