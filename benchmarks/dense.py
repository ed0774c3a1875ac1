"""Compare the CPU kernels for dense layers and blocks of convolutions, in inference, with oneDNN: `make bench`.

Every figure is a ratio of medians from one run, in which the calls take turns, after a check of correctness. "useful"
is the rate of the multiplications and additions, as a share of the rate of a large float32 `torch.mm`. Several layers
with weights of their own take turns, so that weights are as cold as in a network.
"""

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from common import SIDE, argument_parser, medians, milliseconds, product, start
from regard.dense import DepthwiseConv2d, PackedConv2d, PackedLinear, PanelConv2d, PanelLinear, depthwise_block, mlp

LAYERS = 6
MLPS = ((3136, 48), (784, 56), (196, 112), (49, 220), (197, 192), (784, 192), (196, 384), (197, 768))
"""Tokens and channels; four times as many channels between the layers."""
BLOCKS = (
    (128, 32, 64, 64, 1),
    (128, 64, 128, 128, 2),
    (64, 128, 256, 128, 1),
    (32, 256, 512, 384, 2),
    (16, 384, 768, 512, 2),
)
"""MobileViTv2's inverted residuals: side of the image, channels in, between and out, stride."""


def mlps(tokens, channels):
    """Return FLOPs and calls on oneDNN and on regard's kernel: GELU between two layers, and a residual."""
    x = torch.randn(tokens, channels)

    def stack(kind):
        return [(kind(channels, 4 * channels), kind(4 * channels, channels)) for _ in range(LAYERS)]

    def call(layers):
        return lambda: [mlp(*pair, x, activation=F.gelu, residual=x) for pair in layers]

    return 16 * tokens * channels**2 * LAYERS, stack(PackedLinear), stack(PanelLinear), call


def blocks(side, channels, wider, out, stride):
    """Return FLOPs and calls: 1x1 convolution, SiLU, depth-wise convolution, SiLU, 1x1 convolution."""
    x = torch.randn(1, channels, side, side).to(memory_format=torch.channels_last)

    def stack(pointwise, depthwise):
        return [
            (
                pointwise(channels, wider, 1),
                depthwise(wider, wider, 3, stride=stride, padding=1, groups=wider),
                pointwise(wider, out, 1),
            )
            for _ in range(LAYERS)
        ]

    def call(layers):
        activations = (F.silu, F.silu, None)
        return lambda: [depthwise_block(x, middle, [last], activations, before=first) for first, middle, last in layers]

    flops = 2 * side**2 * wider * (channels + (9 + out) / stride**2) * LAYERS
    packed = stack(PackedConv2d, PackedConv2d)
    for layer in (layer for layers in packed for layer in layers):
        layer.to(memory_format=torch.channels_last)
    return flops, packed, stack(PanelConv2d, DepthwiseConv2d), call


def measure(flops, packed, panels, call):
    """Return the medians of both calls per layer and their useful rates relative to `torch.mm`, from one run."""
    for source, target in zip(packed, panels, strict=True):
        for old, new in zip(source, target, strict=True):
            new.load_state_dict(old.state_dict())
    for old, new in zip(call(packed)(), call(panels)(), strict=True):
        torch.testing.assert_close(
            new, old, rtol=1e-4, atol=1e-4 * float(old.abs().max())
        )  # the tests have the budgets
    *seconds, whole = medians(call(packed), call(panels), product())
    floor = flops / (2 * SIDE**3 / whole)
    return [one / LAYERS for one in seconds], [floor / one for one in seconds]


def main(arguments=None):
    start(argument_parser(__doc__), arguments)
    table = Table("case", "oneDNN", "ours", "oneDNN, useful", "ours, useful", "times oneDNN")
    with torch.no_grad():
        cases = [(f"MLP {tokens} x {channels}", mlps(tokens, channels)) for tokens, channels in MLPS]
        cases += [(f"block {' '.join(map(str, sizes))}", blocks(*sizes)) for sizes in BLOCKS]
        for name, case in cases:
            seconds, useful = measure(*case)
            cells = (*map(milliseconds, seconds), *(f"{one:.2f}" for one in useful))
            table.add_row(name, *cells, f"{seconds[0] / seconds[1]:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
