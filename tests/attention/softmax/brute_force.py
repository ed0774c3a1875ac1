"""Softmax attention with Shaw's relative positions, one query and one key at a time.

The vectors a_ij and c_ij are written out per pair of positions, as the paper defines them and nobody computes them.
"""

import itertools
import math

import numpy as np
import torch


def relative_vector(table, i, j):
    """Sum, over the axes, the table rows of the clipped distances from position i to position j."""
    k = table.shape[1] // 2
    return sum(rows[max(-k, min(k, jj - ii)) + k] for rows, ii, jj in zip(table, i, j, strict=True))


def brute_force(query, key, value, bias=None, relative_key=None, relative_value=None, scale=None):
    q, k, v = (tensor.double().numpy() for tensor in (query, key, value))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    queries = list(itertools.product(*map(range, q.shape[1:-2])))
    keys = list(itertools.product(*map(range, k.shape[1:-2])))
    batch, heads = q.shape[0], q.shape[-2]
    added = np.broadcast_to(0.0 if bias is None else bias.numpy(), (batch, heads, len(queries), len(keys)))
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, h, (n, i) in itertools.product(range(batch), range(heads), enumerate(queries)):
        logits, values = [], []
        for m, j in enumerate(keys):
            key_vector, value_vector = k[(b, *j, h)], v[(b, *j, h)]
            if relative_key is not None:
                key_vector = key_vector + relative_vector(relative_key.numpy(), i, j)
            if relative_value is not None:
                value_vector = value_vector + relative_vector(relative_value.numpy(), i, j)
            logits.append(scale * np.dot(q[(b, *i, h)], key_vector) + added[b, h, n, m])
            values.append(value_vector)
        weights = np.exp(np.array(logits) - max(logits))
        out[(b, *i, h)] = (weights / weights.sum()) @ np.array(values)
    return torch.from_numpy(out)
