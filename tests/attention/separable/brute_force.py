"""Separable attention written from MobileViTv2's text: a loop over the values, each gathering the keys of its kind."""

import itertools
import math

import numpy as np
import torch


def brute_force(query, key, value, patch_size=1):
    axes = key.ndim - 2
    patch = (patch_size,) * axes if isinstance(patch_size, int) else tuple(patch_size)

    def place_in_patch(position):
        return tuple(p - p // size * size for p, size in zip(position, patch, strict=True))

    q, k, v = (tensor.double().numpy() for tensor in (query, key, value))
    out = np.zeros(v.shape)
    for b, *i in itertools.product(*map(range, v.shape[:-1])):
        group = [j for j in itertools.product(*map(range, k.shape[1:-1])) if place_in_patch(j) == place_in_patch(i)]
        scores = [q[(b, *j, 0)] for j in group]
        exponentials = [math.exp(score - max(scores)) for score in scores]
        context = sum(e / sum(exponentials) * k[(b, *j)] for e, j in zip(exponentials, group, strict=True))
        out[(b, *i)] = np.maximum(v[(b, *i)], 0) * context
    return torch.from_numpy(out)
