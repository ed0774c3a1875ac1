"""Compare exported models in ONNX Runtime with their bars: ours with timm's, and regard's operators with standard ones.

Every group of calls takes turns in one process, on the same threads, after a check that the outputs agree. timm's
models are exported by the same exporter, with the same weights.
"""

from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from common import argument_parser, begin, timm_model
from regard.benchmark.runtimes import RUNTIMES
from regard.models import create_model
from regard.timing import time_in_turn

MODELS = (
    "swiftformer_xs",
    "mobilevitv2_100",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
)


def against_timm(seconds):
    for name in MODELS:
        upstream = timm_model(name)
        ours = create_model(name, weights=upstream.state_dict()).eval()
        x = torch.randn(1, 3, 224, 224)
        calls = {
            "timm": RUNTIMES["onnxruntime"].prepare(upstream, x),
            "regard": RUNTIMES["onnxruntime"].prepare(ours, x),
        }
        times = compare(calls, seconds)
        ratio = times["regard"].ratio_to(times["timm"])
        yield f"{name}: ONNX Runtime, ours over timm's", times["regard"], ratio, "<= 1.00", ratio <= 1.0


def neighborhood(seconds):
    model, x = create_model("nat_mini").eval(), torch.randn(1, 3, 224, 224)
    calls = {
        "torch": partial(model, x),
        "standard": RUNTIMES["onnxruntime"].prepare(model, x),
        "regard": RUNTIMES["onnxruntime_regard"].prepare(model, x),
    }
    times = compare(calls, seconds)
    ratio = times["regard"].ratio_to(times["torch"])
    yield "nat_mini: regard's operators over fused PyTorch", times["regard"], ratio, "<= 1.15", ratio <= 1.15
    ratio = times["standard"].ratio_to(times["regard"])
    yield "nat_mini: standard operators over regard's", times["standard"], ratio, ">= 5.00", ratio >= 5
    ratio = times["standard"].ratio_to(times["torch"])
    yield "nat_mini: standard operators over fused PyTorch", times["standard"], ratio, "<= 8.00", ratio <= 8


def talking_heads(seconds):
    upstream = timm_model("cait_xxs24_384")
    ours = create_model("cait_xxs24_384", weights=upstream.state_dict()).eval()
    x = torch.randn(1, 3, 384, 384)
    calls = {
        "timm": RUNTIMES["onnxruntime"].prepare(upstream, x),
        "regard": RUNTIMES["onnxruntime_regard"].prepare(ours, x),
    }
    times = compare(calls, seconds)
    ratio = times["timm"].ratio_to(times["regard"])
    yield "cait_xxs24_384: timm's over regard's operators", times["regard"], ratio, ">= 1.30", ratio >= 1.3


def compare(calls, seconds):
    """Check that all calls agree, and return their times."""
    with torch.inference_mode():
        first, *others = (call() for call in calls.values())
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-3, atol=1e-4 * float(first.abs().max()))
        return time_in_turn(calls, seconds)


PARTS = (against_timm, neighborhood, talking_heads)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--seconds", type=float, default=8.0, help="per group of calls")
    options = parser.parse_args()
    begin(parser, options)
    table, missed = Table("case", "time", "ratio", "bar", ""), 0
    for part in PARTS:
        if not options.only or part.__name__ in options.only:
            for case, times, ratio, bar, is_met in part(options.seconds):
                cells = (case, f"{1e3 * times.median:.1f} ms", f"{ratio:.2f}", bar, "yes" if is_met else "NO")
                print(*cells, sep="\t", flush=True)
                table.add_row(*cells)
                missed += not is_met
    Console(width=140).print(table)
    print(f"{missed} of {table.row_count} bars missed")


if __name__ == "__main__":
    main()
