"""Compare models of timm, torchvision and transformers before and after `fuse`: `make bench`.

Batch 1, float32, on the CPU, the same weights, after a check that the outputs agree. Weights are random. Layer scales
are 1, so that they do not hide the layers that they scale. Both models run in turn in one process, and the ratio is the
median of the ratios of neighboring calls. Usage: fuse.py [--threads 2] [--seconds 4] [model ...]
"""

import time

import torch
import torchvision
import transformers
from rich.console import Console
from rich.table import Table

from common import argument_parser, bar_cell, load, milliseconds, ratio, start, timm_model, with_statistics
from regard.surgery import fuse

VIT = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}


def hugging_face(family, **options):
    """Return a function that builds a transformers classifier."""
    config, model = (getattr(transformers, family + suffix) for suffix in ("Config", "ForImageClassification"))
    return lambda: model(config(**options))


# model: its bar without inference, its bar with it
TIMM = {
    "swiftformer_xs": (0.98, 1.15),
    "swiftformer_s": (0.98, 0.98),
    "swiftformer_l1": (0.98, 1.15),
    "mobilevitv2_050": (0.98, 0.98),
    "mobilevitv2_100": (0.98, 1.15),
    "cait_xxs24_224": (0.98, 1.15),
    "cait_xxs36_224": (0.98, 0.98),
    "swin_tiny_patch4_window7_224": (0.98, 1.15),
    "swin_small_patch4_window7_224": (0.98, 0.98),
    "deit_tiny_patch16_224": (0.98, 1.15),
    "deit_small_patch16_224": (0.98, 0.98),
    "vit_tiny_patch16_224": (0.98, 0.98),
    "xcit_nano_12_p8_224": (0.98, 0.98),
    "resnet50": (0.98, 0.98),
    "convnext_tiny": (0.98, 0.98),
    "efficientnet_b0": (0.98, 0.98),
}
OTHERS = {
    "torchvision swin_t": torchvision.models.swin_t,
    "torchvision mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "transformers ViT": hugging_face("ViT", **VIT),
    "transformers DeiT": hugging_face("DeiT", **VIT),
    "transformers Swin": hugging_face("Swin"),
    "transformers SwiftFormer": hugging_face("SwiftFormer"),
    "transformers MobileViTV2": hugging_face("MobileViTV2"),
}
MODELS = (*TIMM, *OTHERS)
MAX_DIFFERENCE = 1e-5


def build(name):
    return with_statistics(OTHERS[name]()) if name in OTHERS else timm_model(name)


def image(model):
    config = getattr(model, "pretrained_cfg", None)
    size = config["input_size"] if config else (3, *[getattr(getattr(model, "config", None), "image_size", 224)] * 2)
    return torch.randn(1, *size)


def row(name, inference, seconds):
    """Return the cells of one model, and whether it met its bar."""
    before = build(name)
    x = image(before)
    begin = time.perf_counter()
    after = fuse(before, inference=inference, example=x)
    spent = time.perf_counter() - begin
    report = after.fuse_report
    assert not report.unchecked, report
    difference = 0.0 if report.difference is None else report.difference  # None: nothing to replace
    assert difference <= MAX_DIFFERENCE, report
    with torch.inference_mode():
        begin = time.perf_counter()
        before(x)
        rounds = min(41, max(7, int(seconds / 2 / (time.perf_counter() - begin))))
        old, new, faster = ratio(lambda: before(x), lambda: after(x), rounds)
    changed = bool(report.replaced or report.folded or any(one.is_packed for one in report.packings))
    form = next((one for one, times in report.trials.items() if times is report.times), "original")
    bar = TIMM.get(name, (0.98, 0.98))[inference]
    met = bar_cell(bar, faster >= bar)
    cells = ("yes" if inference else "no", milliseconds(old), milliseconds(new), f"{faster:.2f}", met)
    return name, *cells, form if changed else "as it was", f"{spent:.1f} s", f"{difference:.1e}"


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--seconds", type=float, default=4.0, help="for timing one model")
    options = start(parser)
    torch.manual_seed(0)
    columns = ("model", "inference", "before", "fused", "speed-up", "bar", "form", "fuse took", "difference")
    table = Table(*columns, title=f"{torch.get_num_threads()} threads")
    for name in options.models:
        for inference in (False, True):
            cells = row(name, inference, options.seconds)
            print(*cells, sep="\t", flush=True)
            table.add_row(*cells)
    Console(width=140).print(table)  # full names, in a pipe too
    print(f"load {load()} at the end")


if __name__ == "__main__":
    main()
