"""Train one small model of every family on handwritten digits, with three seeds each, and print the table of the docs.

The weights that are best on the validation images are evaluated once on the test images.

    python benchmarks/digits.py --out runs/digits-table
"""

import argparse
import json
import time
from pathlib import Path

import torch

from regard.training import evaluate, resolve, train

ON_8_PIXELS = {"img_size": 8, "drop_path_rate": 0.1}
FAMILIES = {
    "SwiftFormer": {"model": "swiftformer_nano"},
    "MobileViTv2": {
        "model": "mobilevitv2_050",
        "image_size": 32,
        "epochs": 32,
        "batch_size": 64,
        "overrides": {"width": 0.4, "drop_path_rate": 0.1},
    },
    "CaiT": {
        "model": "cait_xxs24_224",
        "epochs": 90,
        "lr": 1e-3,
        "image_size": 8,
        "overrides": {
            **ON_8_PIXELS,
            "patch_size": 4,
            "embed_dim": 96,
            "depth": 3,
            "depth_token_only": 1,
            "num_heads": 4,
            "mlp_ratio": 2.0,
            "layer_scale": 1.0,
        },
    },
    "NAT": {"model": "nat_nano"},
    "DiNAT": {"model": "nat_nano", "overrides": {"dilations": (2, 1, 1)}},
    "Swin": {
        "model": "swin_tiny_patch4_window7_224",
        "epochs": 60,
        "lr": 1e-3,
        "image_size": 8,
        "overrides": {
            **ON_8_PIXELS,
            "patch_size": 4,
            "embed_dim": 64,
            "depths": (2, 2),
            "num_heads": (4, 8),
            "window_size": 2,
            "mlp_ratio": 2.0,
        },
    },
    "ViT": {
        "model": "vit_tiny_patch16_224",
        "epochs": 90,
        "lr": 1e-3,
        "image_size": 8,
        "overrides": {
            **ON_8_PIXELS,
            "patch_size": 4,
            "embed_dim": 96,
            "depth": 3,
            "num_heads": 4,
            "mlp_ratio": 2.0,
        },
    },
}
SEEDS = (0, 1, 2)


def measure(family, seed, out):
    """Train one model; return its parameters, seconds and accuracies."""
    torch.set_num_threads(1)
    place = {"data": "digits", "out": out / f"{family}-{seed}", "device": "cpu", "overwrite": True}
    config = resolve("digits", **FAMILIES[family], **place, seed=seed).config
    begin = time.perf_counter()
    run = train(config)
    seconds = time.perf_counter() - begin
    parameters = sum(parameter.numel() for parameter in run.load_model().parameters())
    return {
        "family": family,
        "seed": seed,
        "parameters": parameters,
        "seconds": seconds,
        "val": max(record["val_accuracy"] for record in run.metrics()),
        "test": evaluate(run).top1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits-table"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    for seed in options.seeds:
        for family in options.families:
            row = measure(family, seed, options.out)
            print(row, flush=True)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
