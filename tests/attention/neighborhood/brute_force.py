"""Neighborhood attention written from the papers' text: loops over queries, sets of keys, no index arithmetic shared.

A query sees the `kernel` members of its dilation group that are nearest to its leader; of two equally near ones the
left is taken first (even kernels reach further left). Causal: the last `kernel` members up to the leader, and of them
those up to the query.
"""

import itertools
import math

import numpy as np
import torch


def visible_keys(i, length, kernel, dilation, stride, causal):
    group = list(range(i % dilation, length, dilation))
    place = group.index(i)
    run = [p for p in range(len(group)) if p // stride == place // stride]
    if causal:
        last = min(place // stride * stride + stride - 1, len(group) - 1)
        window = group[max(0, last - kernel + 1) : last + 1]
        return [j for j in window if j <= i]
    leader = min(run[0] + stride // 2, len(group) - 1)
    nearest = sorted(range(len(group)), key=lambda p: (abs(p - leader), p))[:kernel]
    return [group[p] for p in sorted(nearest)]


def brute_force(
    query,
    key,
    value,
    kernel_size,
    dilation=1,
    stride=1,
    is_causal=False,
    bias=None,
    scale=None,
    small_grid="error",
):
    grid = query.shape[1:-2]
    axes = len(grid)
    kernel, dilation, stride, causal = (
        (option,) * axes if isinstance(option, int) else tuple(option)
        for option in (kernel_size, dilation, stride, is_causal)
    )
    padded = [max(n, k * d) for n, k, d in zip(grid, kernel, dilation, strict=True)]
    assert small_grid == "pad" or tuple(padded) == tuple(grid)

    def grow(tensor):
        array = tensor.double().numpy()
        room = np.zeros((array.shape[0], *padded, *array.shape[-2:]))
        room[(slice(None), *(slice(n) for n in grid))] = array
        return room

    q, k, v = grow(query), grow(key), grow(value)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = np.zeros((*query.shape[:-1], v.shape[-1]))
    for i in itertools.product(*map(range, grid)):
        keys = list(
            itertools.product(
                *(visible_keys(*one) for one in zip(i, padded, kernel, dilation, stride, causal, strict=True))
            )
        )
        for b, h in itertools.product(range(q.shape[0]), range(q.shape[-2])):
            logits = []
            for j in keys:
                logit = scale * np.dot(q[(b, *i, h)], k[(b, *j, h)])
                if bias is not None:
                    offset = ((jj - ii) // d + kk - 1 for ii, jj, d, kk in zip(i, j, dilation, kernel, strict=True))
                    logit += bias[(h, *offset)].item()
                logits.append(logit)
            weights = np.exp(np.array(logits) - max(logits))
            weights /= weights.sum()
            out[(b, *i, h)] = sum(w * v[(b, *j, h)] for w, j in zip(weights, keys, strict=True))
    return torch.from_numpy(out)
