"""Time the GPU kernels of neighborhood attention with other tiles: what the tables in gpu_plan.py come from.

python benchmarks/gpu_tiles.py CASE ...
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context

import torch

from gpu_kernels import device_times, inputs_of, with_gradients
from regard.attention import neighborhood_attention
from regard.attention.neighborhood import gpu_plan as gpu

NAMES = ("forward", "backward_queries", "backward_keys", "gradients_by_place", "sum_by_entry")
CASES = {
    "nat": (16, (56, 56), 4, 32, 7, False),
    "nat_bias": (16, (56, 56), 4, 32, 7, True),
    "large": (1, (256, 256), 24, 128, (80, 80), False),
    "video": (1, (30, 48, 80), 24, 128, (18, 24, 24), False),
}
SMALL = [
    gpu.Tiles(*one)
    for one in product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3))
    if 2048 <= one[0] * one[1] <= 4096 * one[2] // 4 and one[1] < 128
]
LARGE = [gpu.Tiles(*one) for one in product((64, 128), (64, 128), (4, 8), (2, 3)) if one[0] * one[1] <= 2048 * one[2]]


def calls_of(name):
    """Return a case's forward call and its forward and backward call; the second is None for large heads."""
    batch, grid, heads, dim, kernel, has_bias = CASES[name]
    query, key, value = inputs_of(batch, grid, heads, dim, requires_grad=True)
    table = None
    if has_bias:
        table = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, device="cuda").bfloat16().requires_grad_()
    call = partial(neighborhood_attention, query, key, value, kernel, bias=table)
    wanted = [one for one in (query, key, value, table) if one is not None]
    return call, with_gradients(call, wanted, torch.randn_like(query)) if dim <= 64 else None


def use(tiles):
    gpu.forward_tiles = gpu.backward_tiles = lambda *_: tiles
    gpu.plan.cache_clear()


def compile_kernels(name, tiles):
    """Run a case once, so that Triton's cache on disk has its kernels."""
    use(tiles)
    forward, both = calls_of(name)
    try:
        if both is None:
            with torch.no_grad():
                forward()
        else:
            both()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__} {str(error)[-100:]}"
    return ""


def busy(call):
    """Return the device's milliseconds per call in each of the mechanism's kernels, by name."""
    return {name: time_ms for name, time_ms in device_times(call, 3).items() if name in NAMES}


def main():
    names = sys.argv[1:]
    todo = [(name, tiles) for name in names for tiles in (LARGE if CASES[name][3] > 64 else SMALL)]
    begin = time.time()
    with ProcessPoolExecutor(14, mp_context=get_context("spawn")) as pool:
        problems = list(pool.map(compile_kernels, *zip(*todo, strict=True), chunksize=1))
    print(f"compiled {len(todo)} in {time.time() - begin:.0f} s", flush=True)
    found = {}
    for (name, tiles), problem in zip(todo, problems, strict=True):
        if problem:
            print(name, tuple(tiles), problem.replace("\n", " "), flush=True)
            continue
        use(tiles)
        forward, both = calls_of(name)
        for kernel, time_ms in busy(both or forward).items():
            found.setdefault((name, kernel), []).append((time_ms, tuple(tiles)))
    for (name, kernel), entries in found.items():
        best = ", ".join(f"{time_ms:.4f} {tiles}" for time_ms, tiles in sorted(entries)[:7])
        print(f"{name} {kernel}: {best}", flush=True)


if __name__ == "__main__":
    main()
