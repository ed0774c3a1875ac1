"""Compare the CPU kernel of neighborhood attention with its bars: `make bench`.

Every figure is a ratio of medians from one run, in which the calls take turns, after a check of correctness. "useful"
is the rate of 4 * B * nh * N * K * hd FLOPs, as a share of the rate of a large float32 `torch.mm`.
"""

import math
from functools import partial

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from common import SIDE, argument_parser, medians, milliseconds, peak_memory, product, start
from regard.attention import neighborhood_attention
from regard.models import create_model


def draw(batch, grid, heads, head_dim, kernel):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, *grid, 3, heads, head_dim, generator=generator)
    return (*qkv.unbind(-3), torch.randn(heads, *(2 * size - 1 for size in kernel), generator=generator))


def with_gradients(backend, query, key, value, bias, kernel):
    tensors = [tensor.detach().requires_grad_() for tensor in (query, key, value, bias)]

    def call():
        *qkv, table = tensors
        out = neighborhood_attention(*qkv, kernel, bias=table, backend=backend)
        return torch.autograd.grad(out, tensors, torch.ones_like(out))

    return call


def gate():
    """Stop if an output or a gradient of the kernel exceeds the budget of the reference."""
    from attention.oracle import assert_kernel_within_budget  # of the tests, which `common` has put on the path

    tensors = dict(zip(("query", "key", "value", "bias"), draw(2, (20, 37), 3, 24, (7, 5)), strict=True))
    assert_kernel_within_budget(neighborhood_attention, tensors, kernel_size=(7, 5))


def flex(query, key, value, kernel):
    """Return a call of compiled FlexAttention with the same windows, in its own layout."""
    rows, columns = query.shape[1:-2]

    def mask(_batch, _head, query_index, key_index):
        seen = True
        for q, k, size, length in (
            (query_index // columns, key_index // columns, kernel[0], rows),
            (query_index % columns, key_index % columns, kernel[1], columns),
        ):
            first = (q - size // 2).clamp(0, length - size)
            seen = (k >= first) & (k < first + size) & seen
        return seen

    tokens = rows * columns
    blocks = create_block_mask(mask, None, None, tokens, tokens, device="cpu")
    flat = [tensor.flatten(1, 2).transpose(1, 2).contiguous() for tensor in (query, key, value)]
    compiled = torch.compile(flex_attention, dynamic=False)
    return partial(compiled, *flat, block_mask=blocks)


def forward_rows():
    cases = [
        ((1, (56, 56), 2, 32, (7, 7)), 0.30, True),
        ((8, (28, 28), 4, 32, (7, 7)), 0.30, True),
        ((1, (128, 128), 4, 32, (7, 7)), 0.32, False),
        ((1, (56, 56), 2, 32, (13, 13)), 0.32, False),
        ((1, (8, 32, 32), 4, 32, (3, 7, 7)), 0.35, False),
        ((4, (4096,), 4, 64, (65,)), 0.35, False),
    ]
    for case, bar, against_flex in cases:
        batch, grid, heads, head_dim, kernel = case
        query, key, value, _ = draw(*case)
        call = partial(neighborhood_attention, query, key, value, kernel, backend="fused")
        ours, mm = medians(call, product())
        flops = 4 * batch * heads * math.prod(grid) * math.prod(kernel) * head_dim
        share = flops / ours / (2 * SIDE**3 / mm)
        yield f"forward {case}", milliseconds(ours), f"useful {share:.1%}", f">= {bar:.0%}", share >= bar
        if against_flex:
            with torch.no_grad():
                other = flex(query, key, value, kernel)
                ours, upstream = medians(call, other, rounds=5)
            speed = upstream / ours
            yield (
                f"  against compiled FlexAttention {upstream * 1e3:.1f} ms",
                "",
                f"{speed:.1f} x",
                ">= 15 x",
                speed >= 15,
            )


def option_rows():
    query, key, value, bias = draw(1, (56, 56), 2, 32, (7, 7))
    plain = partial(neighborhood_attention, query, key, value, 7, backend="fused")
    dilated = partial(plain, dilation=4)
    biased = partial(plain, bias=bias)
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    in_half = partial(neighborhood_attention, *half, 7, backend="fused")
    base, *others = medians(plain, dilated, biased, in_half, rounds=41)
    for name, taken, bar in zip(("dilation 4", "with bias", "bfloat16"), others, (1.5, 1.15, 1.15), strict=True):
        yield (
            f"{name}, (1, 56x56, 2, 32, 7x7)",
            milliseconds(taken),
            f"{taken / base:.2f} x",
            f"<= {bar} x",
            taken <= bar * base,
        )


def backward_rows():
    query, key, value, bias = draw(4, (56, 56), 2, 32, (7, 7))
    forward = partial(neighborhood_attention, query, key, value, 7, bias=bias, backend="fused")
    alone, both = medians(forward, with_gradients("fused", query, key, value, bias, (7, 7)))
    name = "forward + backward with bias, (4, 56x56, 2, 32, 7x7)"
    yield name, milliseconds(both), f"{both / alone:.2f} x forward", "<= 3.5 x", both <= 3.5 * alone
    (plain,) = medians(with_gradients("reference", query, key, value, bias, (7, 7)), rounds=3)
    yield "  against the reference", milliseconds(plain), f"{plain / both:.1f} x", ">= 30 x", plain >= 30 * both


@torch.inference_mode()
def model_rows():
    ours, upstream = create_model("nat_mini").eval(), timm.create_model("swin_tiny_patch4_window7_224").eval()
    for batch, bar in ((1, 0.8), (8, 0.65)):
        images = torch.randn(batch, 3, 224, 224)
        nat, swin = medians(partial(ours, images), partial(upstream, images), rounds=9)
        name = f"NAT-Mini against timm's Swin-T, batch {batch}"
        yield name, milliseconds(nat), f"{nat / swin:.2f} x", f"<= {bar} x", nat <= bar * swin


def memory_rows():
    """Peak memory beyond the output, the gradients and the log-sum-exps."""
    tensors = [torch.randn(1, 512, 512, 4, 32, requires_grad=True) for _ in range(3)]
    seed = torch.ones(1, 512, 512, 4, 32)
    small = [tensor[:, :16, :16] for tensor in tensors]
    torch.autograd.grad(neighborhood_attention(*small, 7, backend="fused").sum(), small)  # allocates once
    peak = peak_memory(lambda: torch.autograd.grad(neighborhood_attention(*tensors, 7, backend="fused"), tensors, seed))
    extra = peak - 4 * seed.nbytes - seed.nbytes // 32
    bar = 8 * torch.get_num_threads()
    yield (
        "peak extra memory, (1, 512x512, 4, 32, 7x7)",
        "",
        f"{extra / 2**20:.1f} MB",
        f"<= {bar} MB",
        extra <= bar * 2**20,
    )


def main():
    start(argument_parser(__doc__))
    table = Table("case", "time", "figure", "bar", "", title="neighborhood attention on the CPU, float32")
    missed = 0
    for rows in (memory_rows, forward_rows, option_rows, backward_rows, model_rows):
        gate() if rows is not memory_rows else None
        for *cells, reached in rows():
            table.add_row(*cells, "yes" if reached else "NO")
            missed += not reached
    Console(width=140).print(table)
    print(f"{missed} bars missed")


if __name__ == "__main__":
    main()
