"""Window attention written from the paper's text: no rolling, no masks, no partition.

The first whole window begins at the shift, so a position's window has the number floor((position - shift) / window);
the tiles that the borders cut are windows too. Positions attend to one another if all their numbers agree.
"""

import itertools
import math

import numpy as np
import torch


def brute_force(query, key, value, window_size, shift_size=0, bias=None, scale=None, small_grid="error"):
    grid = query.shape[1:-2]
    size, shift = (
        (option,) * len(grid) if isinstance(option, int) else tuple(option) for option in (window_size, shift_size)
    )
    padded = [math.ceil(n / w) * w for n, w in zip(grid, size, strict=True)]
    assert small_grid == "pad" or all(w <= n for n, w in zip(grid, size, strict=True))

    def grow(tensor):
        array = tensor.double().numpy()
        room = np.zeros((array.shape[0], *padded, *array.shape[-2:]))
        room[(slice(None), *(slice(n) for n in grid))] = array
        return room

    def number(position):
        return [(p - s) // w for p, s, w in zip(position, shift, size, strict=True)]

    q, k, v = grow(query), grow(key), grow(value)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = np.zeros((*query.shape[:-1], v.shape[-1]))
    for i in itertools.product(*map(range, grid)):
        keys = [j for j in itertools.product(*map(range, padded)) if number(i) == number(j)]
        for b, h in itertools.product(range(q.shape[0]), range(q.shape[-2])):
            logits = []
            for j in keys:
                logit = scale * np.dot(q[(b, *i, h)], k[(b, *j, h)])
                if bias is not None:
                    logit += bias[(h, *(jj - ii + w - 1 for ii, jj, w in zip(i, j, size, strict=True)))].item()
                logits.append(logit)
            weights = np.exp(np.array(logits) - max(logits))
            weights /= weights.sum()
            out[(b, *i, h)] = sum(w * v[(b, *j, h)] for w, j in zip(weights, keys, strict=True))
    return torch.from_numpy(out)
