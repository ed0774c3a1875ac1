"""Train one small network per family on a task whose answer is known, and check where its maps point.

A whole digit is drawn on a canvas of 64 x 64 pixels among sixteen fragments of digits, and the network names the digit.
Fragments are as bright as the digit, so brightness does not give it away. The digit's place is random on a grid of 8
pixels, the patch size of ViT and CaiT, so that every network learns the task within minutes on one core. On test images
that the network classifies correctly, a map wins the pointing game if its largest value lies in the digit's box, which
covers a seventh of the canvas. Deletion and insertion areas are measured on the same images.

    python benchmarks/pointing.py --out runs/pointing
"""

import argparse
import json
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate

from regard import create_model
from regard.explain import METHODS, center_map, explain, faithfulness, random_map, resize

SIZE = 64  # of a canvas
SIDE, STRIDE = 24, 8  # of a digit, and of its places
FRAGMENTS, PIECE = 16, 8  # how many fragments per canvas, and their side
SPLITS = {"test": (0, 5), "validation": (1,), "train": (2, 3, 4, 6, 7, 8, 9)}  # index modulo 10

PATCHES = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "num_heads": 4, "drop_path_rate": 0.0}
GRIDS = {"embed_dim": 32, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "drop_path_rate": 0.0}
FAMILIES = {
    "SwiftFormer": ("swiftformer_nano", {"stem_strides": (2, 2), "embed_dims": (32, 48, 96)}),
    "MobileViTv2": ("mobilevitv2_050", {"width": 0.25, "depths": (1, 2, 1), "drop_path_rate": 0.0}),
    "CaiT": ("cait_xxs24_224", {**PATCHES, "depth": 3, "depth_token_only": 1, "layer_scale": 1.0}),
    "NAT": ("nat_nano", {**GRIDS, "stem_strides": (2, 2)}),
    "DiNAT": ("nat_nano", {**GRIDS, "stem_strides": (2, 2), "dilations": (4, 2, 1)}),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {**GRIDS, "img_size": SIZE, "depths": (2, 2, 2), "window_size": 4, "mlp_ratio": 2.0},
    ),
    "ViT": ("vit_tiny_patch16_224", {**PATCHES, "depth": 4}),
}
BASELINES = {"center": center_map, "random": random_map, "brightness": lambda images: images.mean(1)}


class Canvases:
    """Draw cluttered canvases with one whole digit each, from the digits of one split."""

    def __init__(self, split):
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
        chosen = torch.isin(torch.arange(len(images)) % 10, torch.tensor(SPLITS[split]))
        self.digits = interpolate(images[chosen], size=(SIDE, SIDE), mode="bilinear", align_corners=False).flatten(1)
        self.labels = torch.tensor(bunch.target)[chosen]

    def draw(self, count, generator):
        """Return images `[count, 3, 64, 64]`, labels `[count]`, and masks of the digits' boxes `[count, 64, 64]`."""

        def below(bound, *shape):
            return torch.randint(bound, (count, *shape), generator=generator)

        cuts = boxes(below(SIDE - PIECE + 1, FRAGMENTS, 2), PIECE, SIDE)
        pieces = self.digits[below(len(self.digits), FRAGMENTS, 1), cuts]
        places = boxes(below(SIZE - PIECE + 1, FRAGMENTS, 2), PIECE, SIZE)
        canvases = torch.zeros(count, SIZE * SIZE).scatter_reduce_(1, places.flatten(1), pieces.flatten(1), "amax")

        chosen = below(len(self.digits))
        box = boxes(STRIDE * below((SIZE - SIDE) // STRIDE + 1, 2), SIDE, SIZE)
        canvases.scatter_(1, box, self.digits[chosen])
        masks = torch.zeros_like(canvases, dtype=torch.bool).scatter_(1, box, True)

        canvases = canvases.maximum(0.1 * torch.rand(canvases.shape, generator=generator))
        images = (2 * canvases - 1).view(count, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
        return images, self.labels[chosen], masks.view(count, SIZE, SIZE)


def boxes(corners, side, width):
    """Return the pixels of square boxes, `[..., side * side]`, in images of a width; corners `[..., 2]` are (y, x)."""
    steps = torch.arange(side)
    return corners[..., :1] * width + corners[..., 1:] + (steps[:, None] * width + steps).flatten()


def train(model, steps, batch=64, peak=1e-3):
    """Train with AdamW and one cycle of the learning rate."""
    canvases, generator = Canvases("train"), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.15)
    model.train()
    for step in range(1, steps + 1):
        images, labels, _ = canvases.draw(batch, generator)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)


def hits(maps, masks):
    """Return whether the largest value of each map lies on its digit."""
    places = resize(maps, (SIZE, SIZE)).flatten(1).argmax(1)
    return masks.flatten(1).gather(1, places.unsqueeze(1)).squeeze(1)


def measure(model, split, count, batch=50):
    """Return the accuracy, and per method the pointing game's share and the mean areas."""
    canvases, generator = Canvases(split), torch.Generator().manual_seed(2)
    found = {name: {"hits": [], "deletion": [], "insertion": []} for name in (*METHODS, *BASELINES)}
    correct = []
    for _ in range(count // batch):
        images, labels, masks = canvases.draw(batch, generator)
        with torch.no_grad():
            right = model(images).argmax(1) == labels
        correct.append(right)
        images, labels, masks = images[right], labels[right], masks[right]
        for name, results in found.items():
            maps = BASELINES[name](images) if name in BASELINES else explain(model, images, name)
            scores = faithfulness(model, images, maps, labels, steps=16)
            results["hits"].append(hits(maps, masks).float())
            results["deletion"].append(scores.deletion_area)
            results["insertion"].append(scores.insertion_area)
    means = {
        name: {key: torch.cat(values).mean().item() for key, values in results.items()}
        for name, results in found.items()
    }
    return torch.cat(correct).float().mean().item(), means


def trained(family, path, steps):
    """Return a trained model and the seconds that this took; read both from a file if it exists, else write it."""
    torch.manual_seed(0)
    name, overrides = FAMILIES[family]
    model = create_model(name, num_classes=10, **overrides)
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["weights"])
        return model.eval(), saved["seconds"]
    begin = time.perf_counter()
    train(model, steps)
    seconds = time.perf_counter() - begin
    torch.save({"weights": model.state_dict(), "seconds": seconds}, path)
    return model.eval(), seconds


def print_table(rows, columns):
    """Print rows as a Markdown table; `columns` has a function of a row per heading."""
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(cell(row) for cell in columns.values()) + " |")
    print()


def print_tables(rows):
    """Print the pointing game, then deletion and insertion areas."""
    family = {"network": lambda row: row["family"]}
    accuracy = {"accuracy": lambda row: f"{row['accuracy']:.1%}"}
    names = [*METHODS, *BASELINES]
    shares = {name: lambda row, name=name: f"{row[name]['hits']:.1%}" for name in names}
    areas = {
        name: lambda row, name=name: f"{row[name]['deletion']:.3f} / {row[name]['insertion']:.3f}" for name in names
    }
    print_table(rows, family | accuracy | shares)
    print_table(rows, family | areas)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pointing"), help="weights found there are used again")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="images to measure on")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for family in options.families:
        print(family, flush=True)
        model, seconds = trained(family, options.out / f"{family}.pt", options.steps)
        accuracy, methods = measure(model, options.split, options.images)
        rows.append({"family": family, "accuracy": accuracy, "seconds": seconds, **methods})
        (options.out / f"{options.split}.json").write_text(json.dumps(rows, indent=1))
    print_tables(rows)


if __name__ == "__main__":
    main()
