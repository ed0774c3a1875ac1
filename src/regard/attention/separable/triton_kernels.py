"""The GPU kernels of separable attention, in Triton.

A program works on the patches of one part, at one position inside the patches, of one batch entry. A tile's rows, one
per patch, have one head.
"""

import triton
import triton.language as tl

from regard.gpu import triton_pooling as pooling


@triton.jit
def tokens_at(position, patches, grid, patch):
    """Return the tokens at a position inside patches; grids, patches and their positions are numbered row by row."""
    count_1, count_2 = grid[1] // patch[1], grid[2] // patch[2]
    at_0 = patches // count_2 // count_1 * patch[0] + position // patch[2] // patch[1]
    at_1 = patches // count_2 % count_1 * patch[1] + position // patch[2] % patch[1]
    at_2 = patches % count_2 * patch[2] + position % patch[2]
    return (at_0 * grid[1] + at_1) * grid[2] + at_2


@triton.jit
def place_of(program, parts, patch):
    """Return what a program works on: batch entry, position, part."""
    positions = patch[0] * patch[1] * patch[2]
    return program // parts // positions, program // parts % positions, program % parts


@triton.jit
def patches_of(tile, grid, patch, TOKENS: tl.constexpr):
    """Return the patches of a tile, and which of them exist."""
    patches = tile * TOKENS + tl.arange(0, TOKENS)
    return patches, patches < (grid[0] // patch[0]) * (grid[1] // patch[1]) * (grid[2] // patch[2])


@triton.jit
def load_queries(query, steps, batch, tokens, inside):
    """Load the scores of tokens, `[tokens, 1]`; -inf where `inside` is false."""
    places = query + batch * steps[0] + tokens * steps[1]
    return tl.load(places, mask=inside, other=-float("inf")).to(tl.float32)[:, None]


@triton.jit
def rectify(rows):
    """Return the larger of values and 0; NaN stays NaN."""
    return tl.where(rows < 0.0, 0.0, rows)


@triton.jit(do_not_specialize=["parts", "key_tiles", "value_tiles"])
def pool(
    key,
    query,
    value,
    grad_out,
    contexts,
    statistics,
    sums,
    key_steps,
    query_steps,
    value_steps,
    out_steps,
    key_grid,
    value_grid,
    patch,
    parts,
    key_tiles,
    value_tiles,
    SHAPE: tl.constexpr,
):
    """Pool the keys of a part. The backward pass needs the sums of the rectified values times `grad_out`."""
    place = tl.program_id(0).to(tl.int64)
    batch, position, part = place_of(place, parts, patch)
    top, total, context = pooling.empty_pools(SHAPE)
    for tile in range(key_tiles):
        patches, inside = patches_of(part * key_tiles + tile, key_grid, patch, SHAPE[0])
        tokens = tokens_at(position, patches, key_grid, patch)
        scores = load_queries(query, query_steps, batch, tokens, inside)
        rows = pooling.load_tile(key, key_steps, batch, tokens, inside, SHAPE)
        top, total, context = pooling.add_pools(top, total, context, scores, 1.0, rows)
    pooling.store_pool(contexts, statistics, place, top, total, context, SHAPE)
    if grad_out is not None:
        products = pooling.zero_tile(SHAPE)
        for tile in range(value_tiles):
            patches, inside = patches_of(part * value_tiles + tile, value_grid, patch, SHAPE[0])
            tokens = tokens_at(position, patches, value_grid, patch)
            rows = rectify(pooling.load_tile(value, value_steps, batch, tokens, inside, SHAPE))
            products += rows * pooling.load_tile(grad_out, out_steps, batch, tokens, inside, SHAPE)
        pooling.store_sums(sums, place, tl.sum(products, 0), SHAPE)


@triton.jit(do_not_specialize=["parts", "tiles"])
def multiply(
    out,
    value,
    contexts,
    statistics,
    out_steps,
    value_steps,
    grid,
    patch,
    parts,
    tiles,
    SHAPE: tl.constexpr,
):
    """Multiply the rectified values of a part with the context."""
    place = tl.program_id(0).to(tl.int64)
    batch, position, part = place_of(place, parts, patch)
    _, total, context = pooling.join_pools(contexts, statistics, place - part, parts, SHAPE)
    context = context / total[:, None]
    for tile in range(tiles):
        patches, inside = patches_of(part * tiles + tile, grid, patch, SHAPE[0])
        tokens = tokens_at(position, patches, grid, patch)
        rows = rectify(pooling.load_tile(value, value_steps, batch, tokens, inside, SHAPE))
        pooling.store_tile(out, out_steps, batch, tokens, inside, rows * context[None, :, :], SHAPE)


@triton.jit(do_not_specialize=["parts", "key_tiles", "value_tiles"])
def backward(
    grad_key,
    grad_query,
    grad_value,
    key,
    query,
    value,
    grad_out,
    contexts,
    statistics,
    sums,
    grad_key_steps,
    grad_query_steps,
    grad_value_steps,
    key_steps,
    query_steps,
    value_steps,
    out_steps,
    key_grid,
    value_grid,
    patch,
    parts,
    key_tiles,
    value_tiles,
    SHAPE: tl.constexpr,
):
    """Write the gradients of a part's values, keys and scores."""
    place = tl.program_id(0).to(tl.int64)
    batch, position, part = place_of(place, parts, patch)
    base, total, context = pooling.join_pools(contexts, statistics, place - part, parts, SHAPE)
    context = context / total[:, None]
    for tile in range(value_tiles):
        patches, inside = patches_of(part * value_tiles + tile, value_grid, patch, SHAPE[0])
        tokens = tokens_at(position, patches, value_grid, patch)
        rows = pooling.load_tile(value, value_steps, batch, tokens, inside, SHAPE)
        grads = pooling.load_tile(grad_out, out_steps, batch, tokens, inside, SHAPE) * context[None, :, :]
        grads = tl.where(rows <= 0.0, 0.0, grads)
        pooling.store_tile(grad_value, grad_value_steps, batch, tokens, inside, grads, SHAPE)
    context_grad = pooling.join_sums(sums, place - part, parts, SHAPE)
    for tile in range(key_tiles):
        patches, inside = patches_of(part * key_tiles + tile, key_grid, patch, SHAPE[0])
        tokens = tokens_at(position, patches, key_grid, patch)
        weights = tl.exp(load_queries(query, query_steps, batch, tokens, inside) - base[None, :]) / total[None, :]
        rows = pooling.load_tile(key, key_steps, batch, tokens, inside, SHAPE)
        grads = context_grad[None, :, :] * weights[:, :, None]
        pooling.store_tile(grad_key, grad_key_steps, batch, tokens, inside, grads, SHAPE)
        score_grads = tl.sum(pooling.softmax_backward(weights, rows, context, context_grad), 1)
        places = grad_query + batch * grad_query_steps[0] + tokens * grad_query_steps[1]
        tl.store(places, score_grads.to(grad_query.dtype.element_ty), mask=inside)
