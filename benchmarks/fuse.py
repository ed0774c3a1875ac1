"""Compare timm models before and after `fuse`: `make bench`.

Inference on the CPU, batch 1, float32, medians in one run, after a check that the outputs agree. Weights are random.
Layer scales are 1, so that they do not hide the layers that they scale.
"""

import torch
from rich.console import Console
from rich.table import Table

import machine
from common import argument_parser, bar_cell, medians, milliseconds, start, timm_model
from regard.surgery import fuse

# model, fuse(inference=...), bar of the speed-up, rounds
CASES = (
    ("cait_xxs24_384", False, 1.5, 9),
    ("swiftformer_xs", True, 1.6, 41),
    ("swiftformer_l1", True, 1.6, 31),
    ("swin_tiny_patch4_window7_224", False, 1.2, 21),
    ("mobilevitv2_050", True, None, 31),
    ("deit_tiny_patch16_224", False, None, 21),
)
MAX_DIFFERENCE = 1e-5


def main():
    start(argument_parser(__doc__))
    torch.manual_seed(0)
    table = Table(
        "model",
        "inference",
        "timm",
        "fused",
        "speed-up",
        "bar",
        "difference",
        title=f"{torch.get_num_threads()} threads",
    )
    for name, inference, bar, rounds in CASES:
        before = timm_model(name)
        after = fuse(before, inference=inference)
        report = after.fuse_report
        assert report.difference is not None and report.difference <= MAX_DIFFERENCE, report
        x = torch.randn(1, *before.pretrained_cfg["input_size"])
        with torch.inference_mode():
            old, new = medians(lambda model=before: model(x), lambda model=after: model(x), rounds=rounds)  # noqa: B023
        times = (milliseconds(old), milliseconds(new), f"{old / new:.2f}")
        met = bar_cell(bar, bar is None or old / new >= bar)
        table.add_row(name, "yes" if inference else "no", *times, met, f"{report.difference:.1e}")
    Console(width=110).print(table)  # full names, in a pipe too
    print(f"load {machine.load()} at the end")


if __name__ == "__main__":
    main()
