"""Compare kernels, modules and models with their bars: `make bench`.

The figures come from the engine of `regard bench`: calls take turns in one process, after a check that their results
agree. "useful" is the rate of the operator's FLOPs as a share of a large float32 `torch.mm`; "over the floor" is a
module's time as a multiple of the time of its FLOPs at that rate.
"""

from functools import partial

import timm
import torch
from rich.console import Console
from rich.table import Table

from common import argument_parser, begin, medians
from regard.attention import neighborhood_attention
from regard.benchmark import Size, measure, measure_kernels, peak_memory
from regard.benchmark.kernels import neighborhood
from regard.models import create_model

# mechanism, size, with gradients, peer, bars of the speed-up, of the share of memory, of the time over the floor
MODULES = (
    ("talking_heads", Size((48, 48), 384, 8), False, "timm", 6.0, 0.10, 1.35),
    ("talking_heads", Size((48, 48), 384, 8), True, "timm", 4.0, 0.15, 1.5),
    ("talking_heads", Size((14, 14), 384, 8, 8), False, "timm", 1.5, None, 1.1),
    ("window", Size((28, 28), 192, 6, 8), False, "timm", 1.7, None, 1.1),
    ("window", Size((28, 28), 192, 6, 8), True, "timm", 1.7, None, 1.25),
    ("efficient_additive", Size((56, 56), 48, 1, 8), False, "timm", 1.5, None, 1.35),
    ("efficient_additive", Size((56, 56), 48, 1, 8), False, "compiled", 1.1, None, None),
    ("efficient_additive", Size((224, 224), 48, 1), False, "timm", 1.5, None, 1.35),
    ("efficient_additive", Size((224, 224), 48, 1), False, "compiled", 1.1, None, None),
    ("separable", Size((32, 32), 128, 1, 8), False, "timm", 1.5, None, 1.1),
)
# call, bar of the useful rate, bar of the speed-up over compiled FlexAttention
NEIGHBORHOODS = (
    (neighborhood(1, (56, 56), 2, 32, (7, 7)), 0.30, 15),
    (neighborhood(8, (28, 28), 4, 32, (7, 7)), 0.30, 15),
    (neighborhood(1, (128, 128), 4, 32, (7, 7)), 0.32, None),
    (neighborhood(1, (56, 56), 2, 32, (13, 13)), 0.32, None),
    (neighborhood(1, (8, 32, 32), 4, 32, (3, 7, 7)), 0.35, None),
    (neighborhood(4, (4096,), 4, 64, (65,)), 0.35, None),
)
MODELS = (
    "swiftformer_xs",
    "mobilevitv2_100",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
)


def modules(machine, seconds):
    for name, size, gradients, peer, speed, share, floor in MODULES:
        ours, other = measure(size, [name], peers=[peer], seconds=seconds, training=gradients)
        passes = 3 if gradients else 1
        times = ours.result.training if gradients else ours.result.forward
        ratio = other.result.ratio_training if gradients else other.result.ratio
        case = f"{name} {size}{', with gradients' if gradients else ''}"
        yield f"{case}: times as fast as {other.result.library}", f"{ratio:.2f}", f">= {speed}", ratio >= speed
        if floor is not None:
            over = times.median * machine.flops / (passes * ours.flops)
            yield "  over the floor", f"{over:.2f}", f"<= {floor}", over <= floor
        if share is not None and ours.result.memory is not None:
            names = ("memory_training", "memory_training") if gradients else ("memory", "memory")
            used = getattr(ours.result, names[0]) / max(1, getattr(other.result, names[1]))
            yield "  memory, of the peer's", f"{used:.0%}", f"<= {share:.0%}", used <= share


def kernels(machine, seconds):
    for kernel, share, speed in NEIGHBORHOODS:
        peers = [] if speed is None else ["flex"]
        ours, *others = measure_kernels([kernel], peers=peers, seconds=seconds, training=False)
        useful = ours.flops / ours.result.forward.median / machine.flops
        yield f"neighborhood {kernel}: useful", f"{useful:.1%}", f">= {share:.0%}", useful >= share
        for other in others:
            faster = other.result.ratio
            yield "  times as fast as FlexAttention, compiled", f"{faster:.1f}", f">= {speed}", faster >= speed


def options(machine, seconds):
    tensors = torch.randn(1, 56, 56, 3, 2, 32)
    query, key, value = tensors.unbind(-3)
    plain = partial(neighborhood_attention, query, key, value, 7, backend="fused")
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    calls = {
        "dilation 4": (partial(plain, dilation=4), 1.5),
        "a bias": (partial(plain, bias=torch.randn(2, 13, 13)), 1.15),
        "bfloat16": (partial(neighborhood_attention, *half, 7, backend="fused"), 1.15),
    }
    base, *others = medians(plain, *(call for call, _ in calls.values()), rounds=41)
    for (name, (_, bar)), taken in zip(calls.items(), others, strict=True):
        yield (
            f"neighborhood 1x56x56x2x32 with {name}, over without",
            f"{taken / base:.2f}",
            f"<= {bar}",
            taken <= bar * base,
        )
    kernel = neighborhood(4, (56, 56), 2, 32, (7, 7), bias=True)
    ours, other = measure_kernels([kernel], peers=["reference"], seconds=seconds)
    over = ours.result.training.median / ours.result.forward.median
    yield f"neighborhood {kernel}: forward + backward over forward", f"{over:.2f}", "<= 3.5", over <= 3.5
    faster = other.result.ratio_training
    yield "  times as fast as the reference", f"{faster:.1f}", ">= 30", faster >= 30


def memory(machine, seconds):
    """Peak memory beyond the output, the gradients and the log-sum-exps."""
    tensors = [torch.randn(1, 512, 512, 4, 32, requires_grad=True) for _ in range(3)]
    seed = torch.ones(1, 512, 512, 4, 32)
    small = [tensor[:, :16, :16] for tensor in tensors]
    torch.autograd.grad(neighborhood_attention(*small, 7, backend="fused").sum(), small)  # allocates once
    peak = peak_memory(lambda: torch.autograd.grad(neighborhood_attention(*tensors, 7, backend="fused"), tensors, seed))
    extra, bar = (peak - 4 * seed.nbytes - seed.nbytes // 32) / 2**20, 8 * torch.get_num_threads()
    yield "neighborhood 1x512x512x4x32: extra memory", f"{extra:.1f} MiB", f"<= {bar} MiB", extra <= bar


@torch.inference_mode()
def models(machine, seconds):
    x = torch.randn(1, 3, 224, 224)
    for name in MODELS:
        upstream = timm.create_model(name).eval()
        with torch.inference_mode(False):
            ours = create_model(name, weights=upstream.state_dict()).eval()
        torch.testing.assert_close(ours(x), upstream(x), rtol=1e-4, atol=1e-4)
        before, after = medians(partial(upstream, x), partial(ours, x), rounds=41)
        yield f"{name}: time over timm's", f"{after / before:.2f}", "<= 1.0", after <= before
    ours, upstream = create_model("nat_mini").eval(), timm.create_model("swin_tiny_patch4_window7_224").eval()
    for batch, bar in ((1, 0.8), (8, 0.65)):
        images = torch.randn(batch, 3, 224, 224)
        nat, swin = medians(partial(ours, images), partial(upstream, images), rounds=9)
        yield f"NAT-Mini, batch {batch}: time over timm's Swin-T", f"{nat / swin:.2f}", f"<= {bar}", nat <= bar * swin


PARTS = (memory, kernels, options, modules, models)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--seconds", type=float, default=2.0, help="per implementation and pass")
    options = parser.parse_args()
    machine = begin(parser, options)
    table, missed = Table("case", "figure", "bar", ""), 0
    for part in PARTS:
        if not options.only or part.__name__ in options.only:
            for case, figure, bar, is_met in part(machine, options.seconds):
                print(case, figure, bar, "yes" if is_met else "NO", sep="\t", flush=True)
                table.add_row(case, figure, bar, "yes" if is_met else "NO")
                missed += not is_met
    Console(width=140).print(table)
    print(f"{missed} of {table.row_count} bars missed")


if __name__ == "__main__":
    main()
