"""Time the GPU kernels against FlexAttention and timm's modules.

    python benchmarks/gpu_kernels.py [--only PART ...] [--out FILE.json]

Times are medians of CUDA events and include the launch from Python; `busy` times are those of the kernels alone, from
torch's profiler. The ceilings, a large copy and a large product, are measured in the same run.
"""

import argparse
import json
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch.nn.attention.flex_attention import flex_attention
from triton.testing import do_bench

from gpu_atomics import atomic_bias_gradients
from regard.attention import TalkingHeadsAttention, WindowAttention, neighborhood_attention
from regard.benchmark.flex import block_mask, score_mod
from regard.models import create_model

DEVICE = "cuda"
RESULTS = []


def milliseconds(call, **options):
    """Return the median time of a call."""
    return do_bench(call, warmup=20, rep=100, return_mode="median", **options)


def peak(call):
    """Return the bytes that a call allocates beyond what is there before it."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def report(case, **values):
    RESULTS.append({"case": case, **values})
    words = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
    print(f"{case}: {words}", flush=True)


def with_gradients(call, inputs, grad):
    def both():
        torch.autograd.grad(call(), inputs, grad)

    return both


def device_times(call, count=5):
    """Return the device's milliseconds per call in each kernel, by name."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(count):
            call()
        torch.cuda.synchronize()
    return {event.key: event.device_time_total / 1000 / count for event in found.key_averages()}


def profile(call, count=5):
    """Return the device's busy milliseconds per call, and print the kernels that take most of them."""
    times = device_times(call, count)
    for name, time in sorted(times.items(), key=lambda one: -one[1])[:7]:
        print(f"    {time:8.4f} ms {name[:90]}", flush=True)
    return sum(times.values())


def ceilings():
    a, b = torch.randn(2, 8192, 8192, device=DEVICE, dtype=torch.bfloat16).unbind()
    product = milliseconds(lambda: a @ b)
    source = torch.randn(2**29, device=DEVICE, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source))
    report(
        "ceilings",
        device=torch.cuda.get_device_name(),
        tflops=2 * 8192**3 / product / 1e9,
        tbytes=2 * source.nbytes / copy / 1e9,
    )


def inputs_of(batch, grid, heads, dim, requires_grad=False):
    """Return query, key and value, views of one projection's output."""
    qkv = torch.randn(batch, *grid, 3, heads, dim, device=DEVICE, dtype=torch.bfloat16)
    return [one.detach().requires_grad_(requires_grad) for one in qkv.unbind(-3)]


def neighborhood_2d():
    batch, grid, heads, dim, kernel = 16, (56, 56), 4, 32, 7
    inputs = inputs_of(batch, grid, heads, dim, requires_grad=True)
    ours = partial(neighborhood_attention, *inputs, kernel)
    flat = [one.detach().flatten(1, 2).transpose(1, 2).contiguous().requires_grad_() for one in inputs]
    mask, compiled = block_mask(grid, (kernel, kernel), DEVICE), torch.compile(flex_attention)
    flex = partial(compiled, *flat, block_mask=mask)
    with torch.no_grad():
        torch.testing.assert_close(ours().flatten(1, 2).transpose(1, 2), flex(), atol=2e-2, rtol=2e-2)
        mine, theirs, busy = milliseconds(ours), milliseconds(flex), profile(ours)
    flops = 4 * batch * prod(grid) * heads * dim * kernel**2
    report("neighborhood 2-D forward", ms=mine, flex_ms=theirs, ratio=theirs / mine, busy_ms=busy, flops=flops)
    grad = torch.randn_like(inputs[0])
    mine = milliseconds(with_gradients(ours, inputs, grad))
    report("neighborhood 2-D forward + backward", ms=mine)

    table = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, device=DEVICE, requires_grad=True)
    flex_table = table.detach().clone().requires_grad_()
    flex = partial(compiled, *flat, score_mod=score_mod(flex_table, grid[1]), block_mask=mask)

    def biased():
        return ours(bias=table.bfloat16())

    with torch.no_grad():
        torch.testing.assert_close(biased().flatten(1, 2).transpose(1, 2), flex(), atol=5e-2, rtol=5e-2)
    both = with_gradients(biased, (*inputs, table), grad)
    mine, busy = milliseconds(both), profile(both)
    theirs = milliseconds(with_gradients(flex, (*flat, flex_table), grad.flatten(1, 2).transpose(1, 2)))
    case = "neighborhood 2-D forward + backward with bias"
    report(case, ms=mine, flex_ms=theirs, ratio=theirs / mine, busy_ms=busy)


def bias_gradient():
    """Compare the bias' gradient, summed in a fixed order, with the same sums added atomically.

    The atomic kernel's time is taken without that of filling the table with zeros.
    """
    query, key, value = inputs_of(16, (56, 56), 4, 32, requires_grad=True)
    bias = torch.randn(4, 13, 13, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn_like(query)

    def both():
        return torch.autograd.grad(neighborhood_attention(query, key, value, 7, bias=bias), (query, bias), grad)

    times, (_, expected) = device_times(both), both()
    with atomic_bias_gradients():
        atomic_times, (_, other) = device_times(both), both()
    torch.testing.assert_close(other, expected, atol=5e-2, rtol=5e-2)
    ours, atomic = times["gradients_by_place"] + times["sum_by_entry"], atomic_times["gradients_by_atomics"]
    report("bias gradient, deterministic against atomic", ms=ours, atomic_ms=atomic, ratio=ours / atomic)


def neighborhood_large():
    for grid, kernel, bar in (((256, 256), (80, 80), 22.0), ((30, 48, 80), (18, 24, 24), 100.0)):
        query, key, value = inputs_of(1, grid, 24, 128)
        call = partial(neighborhood_attention, query, key, value, kernel)
        mine = do_bench(call, warmup=50, rep=300, return_mode="median")
        flops = 4 * prod(grid) * prod(kernel) * 24 * 128
        report(
            f"neighborhood {len(grid)}-D {grid} {kernel}",
            ms=mine,
            bar_ms=bar,
            useful_tflops=flops / mine / 1e9,
            mib=peak(call) / 2**20,
        )


def talking_heads():
    from timm.models.cait import TalkingHeadAttn

    x = torch.randn(8, 2304, 384, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    theirs = TalkingHeadAttn(384, num_heads=8, qkv_bias=True).to(DEVICE, torch.bfloat16)
    ours = TalkingHeadsAttention(384, num_heads=8).to(DEVICE, torch.bfloat16)
    with torch.no_grad():
        mine, timm = milliseconds(lambda: ours(x)), milliseconds(lambda: theirs(x))
        memory = peak(lambda: ours(x)) / peak(lambda: theirs(x))
        busy = profile(lambda: ours(x))
    report("talking heads forward, module", ms=mine, timm_ms=timm, ratio=timm / mine, memory=memory, busy_ms=busy)
    grad = torch.randn_like(x)
    mine = milliseconds(with_gradients(lambda: ours(x), (x, *ours.parameters()), grad))
    timm = milliseconds(with_gradients(lambda: theirs(x), (x, *theirs.parameters()), grad))
    busy = profile(with_gradients(lambda: ours(x), (x, *ours.parameters()), grad))
    report("talking heads forward + backward, module", ms=mine, timm_ms=timm, ratio=timm / mine, busy_ms=busy)


def window():
    from timm.models.swin_transformer import SwinTransformerBlock

    x = torch.randn(64, 56, 56, 96, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    theirs = SwinTransformerBlock(96, (56, 56), num_heads=3, window_size=7, shift_size=3).to(DEVICE, torch.bfloat16)
    ours = WindowAttention(96, num_heads=3, window_size=7, shift_size=3).to(DEVICE, torch.bfloat16)
    parameters = list(theirs.attn.parameters())
    grad = torch.randn_like(x)
    with torch.no_grad():
        mine, timm = milliseconds(lambda: ours(x)), milliseconds(lambda: theirs._attn(x))
    report("window forward, module", ms=mine, timm_ms=timm, ratio=timm / mine)
    mine = milliseconds(with_gradients(lambda: ours(x), (x, *ours.parameters()), grad))
    timm = milliseconds(with_gradients(lambda: theirs._attn(x), (x, *parameters), grad))
    busy = profile(with_gradients(lambda: ours(x), (x, *ours.parameters()), grad))
    busy_timm = profile(with_gradients(lambda: theirs._attn(x), (x, *parameters), grad))
    report(
        "window forward + backward, module",
        ms=mine,
        timm_ms=timm,
        ratio=timm / mine,
        busy_ms=busy,
        busy_timm_ms=busy_timm,
    )


def training():
    images = torch.randn(64, 3, 224, 224, device=DEVICE)
    labels = torch.randint(1000, (64,), device=DEVICE)
    times = {}
    import timm

    builders = {
        "nat_tiny": partial(create_model, "nat_tiny"),
        "swin_tiny": partial(create_model, "swin_tiny_patch4_window7_224"),
        "timm": partial(timm.create_model, "swin_tiny_patch4_window7_224"),
    }
    for name, build in builders.items():
        model = build().to(DEVICE).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def step(model=model, optimizer=optimizer):
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        times[name] = do_bench(step, warmup=200, rep=600, return_mode="median")
        times[f"{name}_busy"] = profile(step, count=2)
        del model, optimizer, step
        torch.cuda.empty_cache()
    report(
        "training step, batch 64",
        **times,
        nat_over_swin=times["nat_tiny"] / times["swin_tiny"],
        nat_over_timm=times["nat_tiny"] / times["timm"],
    )


PARTS = (ceilings, neighborhood_2d, bias_gradient, neighborhood_large, talking_heads, window, training)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--out")
    options = parser.parse_args()
    for part in PARTS:
        if options.only and part.__name__ not in options.only:
            continue
        try:
            part()
        except Exception as error:  # the other parts go on
            report(part.__name__, failed=f"{type(error).__name__}: {str(error)[-1500:]}")
    if options.out:
        Path(options.out).write_text(json.dumps(RESULTS, indent=1))


if __name__ == "__main__":
    main()
