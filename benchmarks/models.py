"""Compare whole models with the same models of timm: `make bench`.

Inference on the CPU, batch 1, 224 pixels, float32, same weights, after a check that the logits agree.
"""

import timm
import torch
from rich.console import Console
from rich.table import Table

from common import argument_parser, bar_cell, medians, milliseconds, start
from regard.models import create_model

MODELS = (
    "swiftformer_xs",
    "mobilevitv2_100",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
)
MAX_RATIO = 1.0
ROUNDS = 41


def main():
    start(argument_parser(__doc__))
    torch.manual_seed(0)
    table = Table("model", "timm", "regard", "ratio", "bar", title=f"{torch.get_num_threads()} threads, batch 1")
    x = torch.randn(1, 3, 224, 224)
    for name in MODELS:
        upstream = timm.create_model(name).eval()
        ours = create_model(name, weights=upstream.state_dict()).eval()
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), upstream(x), rtol=1e-4, atol=1e-4)
            before, after = medians(lambda upstream=upstream: upstream(x), lambda ours=ours: ours(x), rounds=ROUNDS)
        ratio = after / before
        met = bar_cell(MAX_RATIO, ratio <= MAX_RATIO)
        table.add_row(name, milliseconds(before), milliseconds(after), f"{ratio:.2f}", met)
    Console().print(table)


if __name__ == "__main__":
    main()
