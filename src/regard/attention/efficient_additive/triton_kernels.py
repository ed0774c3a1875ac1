"""The GPU kernels of efficient additive attention, in Triton.

A program works on the tokens of one part of one batch entry; a tile's rows have one head. `NORM` is `token_norm`.
"""

import triton
import triton.language as tl

from regard.gpu import triton_pooling as pooling


@triton.jit
def load_weight(weight, scale, SHAPE: tl.constexpr):
    """Load the vector that scores unit queries, `[1, C]`, times the scale."""
    channels = tl.arange(0, SHAPE[4])
    return (tl.load(weight + channels, mask=channels < SHAPE[2], other=0.0).to(tl.float32) * scale)[None, :]


@triton.jit
def normalize(rows, smallest):
    """Divide rows by their norms, at least `smallest`; return both."""
    norms = tl.sqrt_rn(tl.sum(rows * rows, 2))
    norms = tl.where(norms < smallest, smallest, norms)  # keeps NaN
    return rows * (1.0 / norms)[:, :, None], norms


@triton.jit
def normalize_backward(grads, units, norms, smallest):
    """Return the gradients of rows from those of the unit rows; a norm that is `smallest` is a constant."""
    along = tl.where(norms > smallest, tl.sum(grads * units, 2), 0.0)
    return (grads - units * along[:, :, None]) * (1.0 / norms)[:, :, None]


@triton.jit
def divisor_of(total, smallest, NORM: tl.constexpr):
    """Return what the pooled sums are divided by, `[1]`."""
    divisor = total
    if NORM == "l2":
        norm = tl.sqrt_rn(total)
        divisor = tl.where(norm < smallest, smallest, norm)
    elif NORM == "ones":
        divisor = total * 0.0 + 1.0  # nothing has been added to this total
    return divisor


@triton.jit
def token_weights(scores, base, divisor, NORM: tl.constexpr):
    """Return the weights of tokens. With "ones", a score that is not finite makes NaN, as the softmax of one score."""
    if NORM == "softmax":
        weights = tl.exp(scores - base[None, :]) / divisor[None, :]
    elif NORM == "l2":
        weights = scores / divisor[None, :]
    else:
        weights = scores * 0.0 + 1.0
    return weights


@triton.jit
def score_backward(scores, weights, units, divisor, context, context_grad, smallest, NORM: tl.constexpr):
    """Return the gradients of scores, from the gradient of the pooled unit rows."""
    if NORM == "softmax":
        grads = pooling.softmax_backward(weights, units, context, context_grad)
    else:
        weight_grads = tl.sum(units * context_grad[None, :, :], 2)
        if NORM == "l2":
            mean = tl.sum(context_grad * context, 1)
            along = tl.where((divisor > smallest)[None, :], weights * mean[None, :], 0.0)
            grads = (weight_grads - along) / divisor[None, :]
        else:
            grads = weights * weight_grads * 0.0  # NaN where the weight's gradient is not finite
    return grads


@triton.jit(do_not_specialize=["count", "parts", "tiles"])
def pool(
    query,
    unit_query,
    weight,
    contexts,
    statistics,
    scores_pointer,
    key,
    grad_out,
    sums,
    query_steps,
    unit_steps,
    key_steps,
    out_steps,
    count,
    parts,
    tiles,
    scale,
    smallest,
    NORM: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Pool the unit queries of a part. The forward pass writes them.

    The backward pass needs the scores, `[B, count]`, and the sums of the unit keys times `grad_out`.
    """
    place = tl.program_id(0).to(tl.int64)
    batch = place // parts
    scoring = load_weight(weight, scale, SHAPE)
    top, total, context = pooling.empty_pools(SHAPE)
    if NORM != "softmax":
        top = total  # zeros: all factors are 1
    products = pooling.zero_tile(SHAPE)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        rows = pooling.load_tile(query, query_steps, batch, tokens, inside, SHAPE)
        units = normalize(rows, smallest)[0]
        scores = tl.sum(units * scoring[None, :, :], 2)
        if unit_query is not None:
            pooling.store_tile(unit_query, unit_steps, batch, tokens, inside, units, SHAPE)
        if scores_pointer is not None:
            pooling.store_scores(scores_pointer, batch * count + tokens, inside, scores, SHAPE)
        scores = tl.where(inside[:, None], scores, -float("inf") if NORM == "softmax" else 0.0)
        if NORM == "softmax":
            top, total, context = pooling.add_pools(top, total, context, scores, 1.0, units)
        elif NORM == "l2":
            total, context = total + scores * scores, context + units * scores[:, :, None]
        else:
            context += units * (scores * 0.0 + 1.0)[:, :, None]
        if grad_out is not None:
            rows = normalize(pooling.load_tile(key, key_steps, batch, tokens, inside, SHAPE), smallest)[0]
            products += rows * pooling.load_tile(grad_out, out_steps, batch, tokens, inside, SHAPE)
    pooling.store_pool(contexts, statistics, place, top, total, context, SHAPE)
    if grad_out is not None:
        pooling.store_sums(sums, place, tl.sum(products, 0), SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles"])
def multiply(
    out,
    key,
    contexts,
    statistics,
    out_steps,
    key_steps,
    count,
    parts,
    tiles,
    smallest,
    NORM: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Multiply the unit keys of a part with the context."""
    place = tl.program_id(0).to(tl.int64)
    batch = place // parts
    _, total, context = pooling.join_pools(contexts, statistics, batch * parts, parts, SHAPE)
    context = context / divisor_of(total, smallest, NORM)[:, None]
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        units = normalize(pooling.load_tile(key, key_steps, batch, tokens, inside, SHAPE), smallest)[0]
        pooling.store_tile(out, out_steps, batch, tokens, inside, units * context[None, :, :], SHAPE)


@triton.jit(do_not_specialize=["count", "parts", "tiles"])
def backward(
    grad_query,
    grad_key,
    weight_grads,
    query,
    key,
    grad_out,
    grad_unit_query,
    weight,
    contexts,
    statistics,
    scores_pointer,
    sums,
    grad_query_steps,
    grad_key_steps,
    query_steps,
    key_steps,
    out_steps,
    unit_steps,
    count,
    parts,
    tiles,
    scale,
    smallest,
    NORM: tl.constexpr,
    SHAPE: tl.constexpr,
):
    """Write the gradients of a part's keys and queries, and its share in that of the weight, `[B * parts, C]`."""
    place = tl.program_id(0).to(tl.int64)
    batch, first = place // parts, place // parts * parts
    base, total, context = pooling.join_pools(contexts, statistics, first, parts, SHAPE)
    divisor = divisor_of(total, smallest, NORM)
    context = context / divisor[:, None]
    context_grad = pooling.join_sums(sums, first, parts, SHAPE)
    scoring = load_weight(weight, scale, SHAPE)
    weight_grad = pooling.zero_tile(SHAPE)
    for tile in range(tiles):
        tokens = (place % parts * tiles + tile) * SHAPE[0] + tl.arange(0, SHAPE[0])
        inside = tokens < count
        units, norms = normalize(pooling.load_tile(key, key_steps, batch, tokens, inside, SHAPE), smallest)
        grads = pooling.load_tile(grad_out, out_steps, batch, tokens, inside, SHAPE) * context[None, :, :]
        grads = normalize_backward(grads, units, norms, smallest)
        pooling.store_tile(grad_key, grad_key_steps, batch, tokens, inside, grads, SHAPE)
        units, norms = normalize(pooling.load_tile(query, query_steps, batch, tokens, inside, SHAPE), smallest)
        scores = pooling.load_scores(scores_pointer, batch * count + tokens, inside, SHAPE)
        if NORM != "softmax":
            scores = tl.where(inside[:, None], scores, 0.0)
        weights = token_weights(scores, base, divisor, NORM)
        score_grads = score_backward(scores, weights, units, divisor, context, context_grad, smallest, NORM)
        weight_grad += units * (score_grads * scale)[:, :, None]
        grads = pooling.load_tile(grad_unit_query, unit_steps, batch, tokens, inside, SHAPE)
        grads += context_grad[None, :, :] * weights[:, :, None] + scoring[None, :, :] * score_grads[:, :, None]
        grads = normalize_backward(grads, units, norms, smallest)
        pooling.store_tile(grad_query, grad_query_steps, batch, tokens, inside, grads, SHAPE)
    pooling.store_sums(weight_grads, place, tl.sum(weight_grad, 0), SHAPE)
