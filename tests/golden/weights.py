"""Deterministic weights and inputs from names alone, so a golden file needs only shapes and outputs."""

import zlib, numpy as np, torch


def rng(name, seed):
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % (2**32))


def fill(name, shape, dtype="float32", seed=0):
    r = rng(name, seed)
    n = name.lower()
    leaf = n.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        a = 0.5 + r.random_sample(shape)
    elif leaf == "running_mean":
        a = 0.1 * r.standard_normal(shape)
    elif leaf in ("gamma1", "gamma2", "gamma_1", "gamma_2") or "layer_scale" in n:
        a = 0.5 + 0.1 * r.standard_normal(shape)
    elif leaf == "rpb" or "relative_position_bias_table" in n:
        a = 0.5 * r.standard_normal(shape)
    elif len(shape) >= 2 and leaf not in ("cls_token", "pos_embed"):
        fan = int(np.prod(shape[1:])) if leaf != "w_g" else shape[0]
        a = r.standard_normal(shape) / np.sqrt(max(fan, 1))
    elif leaf == "weight":
        a = 1 + 0.1 * r.standard_normal(shape)
    else:
        a = 0.1 * r.standard_normal(shape)
    return torch.from_numpy(np.asarray(a)).to(getattr(torch, dtype))


def image(shape, seed):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).float()


def describe(sd):
    return {k: [list(v.shape), str(v.dtype).split(".")[-1]] for k, v in sd.items()}


def state(desc, seed=0):
    return {k: fill(k, s, d, seed) for k, (s, d) in desc.items()}
