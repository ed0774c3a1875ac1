"""Compare attention modules with timm's: `make bench`.

On the CPU in float32 with the same weights, after a check that the results agree. Each module gets its input in the
layout of its models: timm's convolutional models have NCHW. Memory is the peak of a first call, measured in a new
process. The floor is the time of the modules' FLOPs at the rate of a large `torch.mm`.
"""

import argparse
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table
from timm.models.cait import TalkingHeadAttn
from timm.models.mobilevit import LinearSelfAttention
from timm.models.swiftformer import EfficientAdditiveAttention as TimmEfficientAdditiveAttention
from timm.models.swin_transformer import SwinTransformerBlock
from torch.utils.flop_counter import FlopCounterMode

from common import argument_parser, bar_cell, medians, milliseconds, peak_memory, product_rate, select, start
from regard.attention import (
    EfficientAdditiveAttention,
    SeparableAttention,
    TalkingHeadsAttention,
    WindowAttention,
)

ROUNDS = 11


def talking_heads(*shape):
    upstream, ours = TalkingHeadAttn(shape[-1], 8, qkv_bias=True), TalkingHeadsAttention(shape[-1], 8)
    ours.load_state_dict(upstream.state_dict())
    return upstream, ours, upstream, torch.randn(*shape)


def window():
    block = SwinTransformerBlock(192, (28, 28), num_heads=6, window_size=7, shift_size=3)
    ours = WindowAttention(192, 6, 7, shift_size=3)
    ours.load_state_dict(block.attn.state_dict())
    return block._attn, ours, block.attn, torch.randn(8, 28, 28, 192)


def efficient_additive(batch, size):
    upstream, ours = TimmEfficientAdditiveAttention(48, 48), EfficientAdditiveAttention(48, 48)
    ours.load_state_dict(upstream.state_dict())
    return upstream, ours, upstream, torch.randn(batch, 48, size, size)


def separable():
    upstream, ours = LinearSelfAttention(128), SeparableAttention(128, patch_size=(4, 1))
    ours.load_state_dict(upstream.state_dict())
    return upstream, ours, upstream, torch.randn(8, 128, 4, 256)


# name, builder, with gradients, timm compiled, bars of the speed-up, of the share of memory, of the time over the floor
CASES = (
    ("talking heads, N=2304", lambda: talking_heads(1, 2304, 384), False, False, 6.0, 0.10, 1.35),
    ("talking heads, N=2304", lambda: talking_heads(1, 2304, 384), True, False, 4.0, 0.15, 1.5),
    ("talking heads, 8 x 196", lambda: talking_heads(8, 196, 384), False, False, 1.5, None, 1.1),
    ("window, 8 x 28 x 28, shifted", window, False, False, 1.7, None, 1.1),
    ("window, 8 x 28 x 28, shifted", window, True, False, 1.7, None, 1.25),
    ("efficient additive, 8 x 56 x 56", lambda: efficient_additive(8, 56), False, False, 1.5, None, 1.35),
    ("efficient additive, 8 x 56 x 56", lambda: efficient_additive(8, 56), False, True, 1.1, None, None),
    ("efficient additive, 224 x 224", lambda: efficient_additive(1, 224), False, False, 1.5, None, 1.35),
    ("efficient additive, 224 x 224", lambda: efficient_additive(1, 224), False, True, 1.1, None, None),
    ("separable, 8 x 4 x 256", separable, False, False, 1.5, None, 1.1),
)


def calls(case):
    """Return calls of timm's module and of ours, both modules, their inputs, and whether gradients are computed."""
    _, build, gradients, compiled, *_ = case
    torch.manual_seed(0)
    upstream, ours, module, x = build()
    own = x if isinstance(module, TalkingHeadAttn) or x.shape[-1] == 192 else x.permute(0, 2, 3, 1).contiguous()
    fast = torch.compile(upstream) if compiled else upstream

    def once(function, parameters, x):
        if not gradients:
            with torch.inference_mode():
                return function(x)
        return torch.autograd.grad(function(x.requires_grad_()).sum(), [x, *parameters])

    runs = [lambda: once(fast, list(module.parameters()), x), lambda: once(ours, list(ours.parameters()), own)]
    return *runs, upstream, ours, x, own, gradients


def checked_flops(upstream, ours, x, own, gradients):
    """Check that the results agree, and return the FLOPs of a call."""
    with torch.no_grad():
        expected = upstream(x)
        expected = expected if own is x else expected.permute(0, 2, 3, 1)
        torch.testing.assert_close(ours(own), expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    with FlopCounterMode(display=False) as counter:
        out = ours(own)
        if gradients:
            out.sum().backward()
    return counter.get_total_flops()


def peak_in_new_process(index, which, instruction_set):
    """Return the peak memory of a case's call in bytes; 0 is timm's module, 1 is ours."""
    command = [sys.executable, __file__, "--child", str(index), str(which), "--threads", "2"]
    command += [] if instruction_set is None else ["--instruction-set", instruction_set]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        index, which = options.child
        select(options.instruction_set, options.threads)
        print(peak_memory(calls((*CASES[index][:3], False))[which]))
    else:
        compare(start(parser).instruction_set)


def compare(instruction_set):
    rate = product_rate(ROUNDS)
    table = Table("module", "timm", "regard", "speed-up", "bar", "memory", "over the floor")
    table.title = f"{torch.get_num_threads()} threads, torch.mm {rate / 1e9:.0f} GFLOP/s"
    for index, case in enumerate(CASES):
        name, _, gradients, compiled, bar, share, floor = case
        run_upstream, run_ours, *modules = calls(case)
        flops = checked_flops(*modules)
        before, after = medians(run_upstream, run_ours, rounds=ROUNDS)
        memory, over = "", f"{after * rate / flops:.2f}"
        if share is not None:
            used = peak_in_new_process(index, 1, instruction_set) / peak_in_new_process(index, 0, instruction_set)
            memory = f"{used:.0%} of {bar_cell(f'{share:.0%}', used <= share)}"
        table.add_row(
            f"{name}, {'forward + backward' if gradients else 'forward'}{', timm compiled' if compiled else ''}",
            milliseconds(before),
            milliseconds(after),
            f"{before / after:.2f}",
            bar_cell(bar, before / after >= bar),
            memory,
            over if floor is None else f"{over} of {bar_cell(floor, after * rate / flops <= floor)}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
