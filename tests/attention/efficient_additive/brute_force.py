"""Efficient additive attention written from SwiftFormer's text and its two releases: loops over samples and tokens."""

import math

import numpy as np
import torch


def unit(vector):
    length = max(math.sqrt(sum(x * x for x in vector)), 1e-12)
    return np.array([x / length for x in vector])


def normalized(scores, token_norm):
    if token_norm == "ones":
        return [1.0] * len(scores)
    if token_norm == "l2":
        return unit(scores)
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [e / sum(exponentials) for e in exponentials]


def brute_force(query, key, weight, token_norm="l2", scale=None):
    channels = query.shape[-1]
    scale = 1 / math.sqrt(channels) if scale is None else scale
    vector = weight.double().numpy()
    out, unit_query = np.zeros(query.shape), np.zeros(query.shape)
    shape = (query.shape[0], math.prod(query.shape[1:-1]), channels)
    flat_out, flat_query = out.reshape(shape), unit_query.reshape(shape)  # views
    queries, keys = (tensor.double().numpy().reshape(shape) for tensor in (query, key))
    for b in range(shape[0]):
        units = [unit(q) for q in queries[b]]
        scores = [scale * sum(q * w for q, w in zip(one, vector, strict=True)) for one in units]
        context = sum(a * q for a, q in zip(normalized(scores, token_norm), units, strict=True))
        for n, k in enumerate(keys[b]):
            flat_out[b, n] = context * unit(k)
            flat_query[b, n] = units[n]
    return torch.from_numpy(out), torch.from_numpy(unit_query)
