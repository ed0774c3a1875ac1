"""Additive attention written from Fastformer's text: loops over samples, heads and tokens on flat lists of tokens."""

import math

import numpy as np
import torch


def pooled(tokens, weight, bias, head, scale):
    """Compute the softmax-weighted sum of one head's channels; tokens are `[N][nh, hd]`."""
    scores = [scale * (sum(w * x for w, x in zip(weight[head], token.ravel(), strict=True)) + bias) for token in tokens]
    exponentials = [math.exp(score - max(scores)) for score in scores]
    total = sum(exponentials)
    return sum(e / total * token[head] for e, token in zip(exponentials, tokens, strict=True))


def brute_force(query, key, query_weight, key_weight, query_bias=None, key_bias=None, scale=None):
    heads, channels = query.shape[-2:]
    scale = 1 / math.sqrt(channels) if scale is None else scale
    biases = [np.zeros(heads) if bias is None else bias.double().numpy() for bias in (query_bias, key_bias)]
    weights = [weight.double().numpy() for weight in (query_weight, key_weight)]
    out = np.zeros(query.shape)
    flat = out.reshape(query.shape[0], math.prod(query.shape[1:-2]), heads, channels)  # a view
    queries, keys = (tensor.double().numpy().reshape(flat.shape) for tensor in (query, key))
    for b in range(query.shape[0]):
        global_query = np.stack([pooled(queries[b], weights[0], biases[0][h], h, scale) for h in range(heads)])
        products = [k * global_query for k in keys[b]]
        global_key = np.stack([pooled(products, weights[1], biases[1][h], h, scale) for h in range(heads)])
        for n, q in enumerate(queries[b]):
            flat[b, n] = q * global_key
    return torch.from_numpy(out)
