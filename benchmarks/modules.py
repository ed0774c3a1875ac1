"""Attention modules against timm's: `make bench`.

On the CPU in float32 under the same weights, after a check that the results are equal; each gets its input in the
layout that its models have, timm's images in NCHW. Memory is what a first call takes at most, in a process of its own.
The floor is the modules' FLOPs at the rate of a 2048 x 2048 x 2048 `torch.mm`.
"""

import resource
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table
from timing import medians
from timm.models.cait import TalkingHeadAttn
from timm.models.mobilevit import LinearSelfAttention
from timm.models.swiftformer import EfficientAdditiveAttention as TimmEfficientAdditiveAttention
from timm.models.swin_transformer import SwinTransformerBlock
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import (
    EfficientAdditiveAttention,
    SeparableAttention,
    TalkingHeadsAttention,
    WindowAttention,
)

ROUNDS = 11


def talking_heads(*shape):
    theirs, ours = TalkingHeadAttn(shape[-1], 8, qkv_bias=True), TalkingHeadsAttention(shape[-1], 8)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, theirs, torch.randn(*shape)


def window():
    block = SwinTransformerBlock(192, (28, 28), num_heads=6, window_size=7, shift_size=3)
    ours = WindowAttention(192, 6, 7, shift_size=3)
    ours.load_state_dict(block.attn.state_dict())
    return block._attn, ours, block.attn, torch.randn(8, 28, 28, 192)


def efficient_additive(batch, size):
    theirs, ours = TimmEfficientAdditiveAttention(48, 48), EfficientAdditiveAttention(48, 48)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, theirs, torch.randn(batch, 48, size, size)


def separable():
    theirs, ours = LinearSelfAttention(128), SeparableAttention(128, patch_size=(4, 1))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, theirs, torch.randn(8, 128, 4, 256)


# name, what builds it, with gradients, compiled, at least so many times as fast, at most this part of the memory
CASES = (
    ("talking heads, N=2304", lambda: talking_heads(1, 2304, 384), False, False, 6.0, 0.10),
    ("talking heads, N=2304", lambda: talking_heads(1, 2304, 384), True, False, 4.0, 0.15),
    ("talking heads, 8 x 196", lambda: talking_heads(8, 196, 384), False, False, 1.5, None),
    ("window, 8 x 28 x 28, shifted", window, False, False, 1.7, None),
    ("window, 8 x 28 x 28, shifted", window, True, False, 1.7, None),
    ("efficient additive, 8 x 56 x 56", lambda: efficient_additive(8, 56), False, False, 1.5, None),
    ("efficient additive, 8 x 56 x 56", lambda: efficient_additive(8, 56), False, True, 1.1, None),
    ("efficient additive, 224 x 224", lambda: efficient_additive(1, 224), False, False, 1.5, None),
    ("efficient additive, 224 x 224", lambda: efficient_additive(1, 224), False, True, 1.1, None),
    ("separable, 8 x 4 x 256", separable, False, False, 1.5, None),
)


def calls(case):
    """Return what runs timm's and ours once, and both modules."""
    _, build, gradients, compiled, *_ = case
    torch.manual_seed(0)
    theirs, ours, module, x = build()
    own = x if isinstance(module, TalkingHeadAttn) or x.shape[-1] == 192 else x.permute(0, 2, 3, 1).contiguous()
    fast = torch.compile(theirs) if compiled else theirs

    def once(function, parameters, x):
        if not gradients:
            with torch.inference_mode():
                return function(x)
        return torch.autograd.grad(function(x.requires_grad_()).sum(), [x, *parameters])

    runs = [lambda: once(fast, list(module.parameters()), x), lambda: once(ours, list(ours.parameters()), own)]
    return *runs, theirs, ours, x, own, gradients


def checked_flops(theirs, ours, x, own, gradients):
    """Count the FLOPs of a case, once the results are equal."""
    with torch.no_grad():
        expected = theirs(x)
        expected = expected if own is x else expected.permute(0, 2, 3, 1)
        torch.testing.assert_close(ours(own), expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    with FlopCounterMode(display=False) as counter:
        out = ours(own)
        if gradients:
            out.sum().backward()
    return counter.get_total_flops()


def peak(index, which):
    """The most memory that a call takes, in bytes, seen by a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, str(index), str(which)], capture_output=True, text=True, check=True
    )
    return int(output.stdout)


def child(index, which):
    torch.set_num_threads(2)
    run = calls((*CASES[index][:3], False))[which]
    resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()  # noqa: SIM115, PTH123
    open("/proc/self/clear_refs", "w").write("5")  # noqa: SIM115, PTH123  # forget the peak so far
    run()
    status = open("/proc/self/status").read()  # noqa: SIM115, PTH123
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024 - resident)


def main():
    left = torch.randn(2048, 2048)
    (seconds,) = medians(lambda: left @ left, rounds=ROUNDS)
    rate = 2 * 2048**3 / seconds
    table = Table("module", "timm", "regard", "speed-up", "bar", "memory", "over the floor")
    table.title = f"{torch.get_num_threads()} threads, torch.mm {rate / 1e9:.0f} GFLOP/s"
    for index, case in enumerate(CASES):
        name, _, gradients, compiled, bar, share = case
        run_theirs, run_ours, *modules = calls(case)
        flops = checked_flops(*modules)
        before, after = medians(run_theirs, run_ours, rounds=ROUNDS)
        memory = ""
        if share is not None:
            used = peak(index, 1) / peak(index, 0)
            memory = f"{used:.0%} of {share:.0%}" + ("" if used <= share else "  missed")
        table.add_row(
            f"{name}, {'forward + backward' if gradients else 'forward'}{', timm compiled' if compiled else ''}",
            f"{1e3 * before:.1f} ms",
            f"{1e3 * after:.1f} ms",
            f"{before / after:.2f}",
            f"{bar}{'' if before / after >= bar else '  missed'}",
            memory,
            f"{after * rate / flops:.1f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 1 else main()
