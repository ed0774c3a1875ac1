"""Train one small network per family on a task whose answer is known, and check where its maps point.

A digit is pasted at a random place on a canvas of 64 x 64 pixels that is full of fragments of other digits; the network
names the digit. On test images that it classifies correctly, a map wins the pointing game if its largest value lies on
the digit. Deletion and insertion are measured on the same images.

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

SIZE, SIDE = 64, 20
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
        {**GRIDS, "img_size": SIZE, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "mlp_ratio": 2.0},
    ),
    "ViT": ("vit_tiny_patch16_224", {**PATCHES, "depth": 4}),
}


class Canvases:
    """Cluttered canvases with one whole digit each, from digits that are split into training and test ones."""

    def __init__(self, is_test):
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
        mine = torch.arange(len(images)) % 5 == 0
        mine = mine if is_test else ~mine
        self.digits = interpolate(images[mine], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        self.labels = torch.tensor(bunch.target)[mine]

    def draw(self, count, generator):
        """Return images `[count, 3, 64, 64]`, labels, and masks of the digits' boxes `[count, 64, 64]`."""
        images = 0.1 * torch.rand(count, 1, SIZE, SIZE, generator=generator)
        half = SIDE // 2
        for _ in range(14):  # fragments: quarters of other digits
            chosen = torch.randint(len(self.digits), (count,), generator=generator)
            places = torch.randint(SIZE - half, (count, 2), generator=generator)
            corners = half * torch.randint(2, (count, 2), generator=generator)
            for image, digit, (y, x), (top, left) in zip(
                images, self.digits[chosen], places.tolist(), corners.tolist(), strict=True
            ):
                part = digit[:, top : top + half, left : left + half]
                region = image[:, y : y + half, x : x + half]
                torch.maximum(region, part, out=region)
        chosen = torch.randint(len(self.digits), (count,), generator=generator)
        places = torch.randint(SIZE - SIDE, (count, 2), generator=generator)
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
        for image, mask, digit, (y, x) in zip(images, masks, self.digits[chosen], places.tolist(), strict=True):
            image[:, y : y + SIDE, x : x + SIDE] = digit
            mask[y : y + SIDE, x : x + SIDE] = True
        return images.expand(-1, 3, -1, -1) * 2 - 1, self.labels[chosen], masks


def train(model, steps, batch=64, peak=2e-3):
    """Train with AdamW and one cycle of the learning rate."""
    canvases, generator = Canvases(is_test=False), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.15)
    model.train()
    for step in range(steps):
        images, labels, _ = canvases.draw(batch, generator)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def hits(maps, masks):
    """Return whether the largest value of each map lies on its digit."""
    places = resize(maps, (SIZE, SIZE)).flatten(1).argmax(1)
    return masks.flatten(1).gather(1, places[:, None]).squeeze(1)


def measure(model, count, batch=50):
    """Return the test accuracy, and per method the pointing game's share and the mean areas."""
    canvases, generator = Canvases(is_test=True), torch.Generator().manual_seed(2)
    found = {name: {"hits": [], "deletion": [], "insertion": []} for name in (*METHODS, "center", "random")}
    correct = []
    for _ in range(count // batch):
        images, labels, masks = canvases.draw(batch, generator)
        with torch.no_grad():
            right = model(images).argmax(1) == labels
        correct.append(right)
        images, labels, masks = images[right], labels[right], masks[right]
        for name, results in found.items():
            baselines = {"center": center_map, "random": random_map}
            maps = baselines[name](images) if name in baselines else explain(model, images, name)
            scores = faithfulness(model, images, maps, labels, steps=16)
            results["hits"].append(hits(maps, masks).float())
            results["deletion"].append(scores.deletion_area)
            results["insertion"].append(scores.insertion_area)
    means = {
        name: {key: torch.cat(values).mean().item() for key, values in results.items()}
        for name, results in found.items()
    }
    return torch.cat(correct).float().mean().item(), means


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pointing"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for family in options.families:
        torch.manual_seed(0)
        name, overrides = FAMILIES[family]
        model = create_model(name, num_classes=10, **overrides)
        begin = time.perf_counter()
        train(model, options.steps)
        seconds = time.perf_counter() - begin
        torch.save(model.state_dict(), options.out / f"{family}.pt")
        accuracy, methods = measure(model, options.images)
        print(f"{family}: accuracy {accuracy:.1%} after {seconds:.0f} s")
        for method, row in methods.items():
            print(f"  {method:20} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)
        with (options.out / "results.jsonl").open("a") as file:
            file.write(json.dumps({"family": family, "accuracy": accuracy, "seconds": seconds, **methods}) + "\n")


if __name__ == "__main__":
    main()
