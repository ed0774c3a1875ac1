"""Talking-heads attention as the paper's pseudo-code has it: one query at a time, sums over heads written out."""

import itertools
import math

import numpy as np
import torch


def brute_force(query, key, value, logits_mix, weights_mix, logits_bias=None, weights_bias=None, scale=None):
    q, k, v, to_softmax, to_value = (tensor.double().numpy() for tensor in (query, key, value, logits_mix, weights_mix))
    (softmax_heads, key_heads), value_heads = to_softmax.shape, len(to_value)
    before = np.zeros(softmax_heads) if logits_bias is None else logits_bias.numpy()
    after = np.zeros(value_heads) if weights_bias is None else weights_bias.numpy()
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    keys = list(itertools.product(*map(range, k.shape[1:-2])))
    out = np.zeros((*q.shape[:-2], value_heads, v.shape[-1]))
    for b, *i in itertools.product(*map(range, q.shape[:-2])):
        J = [[scale * np.dot(q[(b, *i, a)], k[(b, *j, a)]) for j in keys] for a in range(key_heads)]
        W = []
        for h in range(softmax_heads):
            row = sum(to_softmax[h, a] * np.array(J[a]) for a in range(key_heads)) + before[h]
            row = np.exp(row - row.max())
            W.append(row / row.sum())
        for c in range(value_heads):
            U = sum(to_value[c, h] * W[h] for h in range(softmax_heads)) + after[c]
            out[(b, *i, c)] = sum(u * v[(b, *j, c)] for u, j in zip(U, keys, strict=True))
    return torch.from_numpy(out)
