"""Whole networks against timm's same ones: `make bench`.

Inference on the CPU, batch 1, 224 pixels, float32, under the same weights, after a check that the logits are equal.
"""

import timm
import torch
from rich.console import Console
from rich.table import Table
from timing import medians

from regard.models import create_model

MODELS = (
    "swiftformer_xs",
    "mobilevitv2_100",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
)
BAR = 1.0
ROUNDS = 41


def main():
    torch.manual_seed(0)
    table = Table("model", "timm", "regard", "ratio", "bar", title=f"{torch.get_num_threads()} threads, batch 1")
    x = torch.randn(1, 3, 224, 224)
    for name in MODELS:
        theirs = timm.create_model(name).eval()
        ours = create_model(name, weights=theirs.state_dict()).eval()
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
            before, after = medians(lambda theirs=theirs: theirs(x), lambda ours=ours: ours(x), rounds=ROUNDS)
        ratio = after / before
        met = "" if ratio <= BAR else "  missed"
        table.add_row(name, f"{1e3 * before:.1f} ms", f"{1e3 * after:.1f} ms", f"{ratio:.2f}", f"{BAR}{met}")
    Console().print(table)


if __name__ == "__main__":
    main()
