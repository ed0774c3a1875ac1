"""Train nat_nano on few images of the digits 5 to 9: from random weights, and from a run on the digits 0 to 4.

The digits are printed in random colors on random colors, with noise: random weights learn the gray ones from few
images, and pretraining does not help. Both trainings get the same images, recipe, epochs and seeds. Every other image
of the digits 5 to 9 is a validation image. The program prints the median accuracy of the seeds, and draws it with the
curve of each seed. If it is stopped, the same command continues it.

    python benchmarks/finetuning.py --out runs/finetuning --picture docs/assets/finetune.png
"""

import argparse
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from regard.training import Run, open_source, resolve, resume, train

SEEDS = (0, 1, 2)
FIRST, SECOND = range(5), range(5, 10)  # digits
COPIES = 3  # of each image of the first, in other colors
MIN_CONTRAST, NOISE = 0.4, 0.05  # of pixels from 0 to 1
RECIPE = {
    "model": "nat_nano",
    "image_size": 8,
    "min_scale": 0.7,
    "hflip": 0.0,
    "device": "cpu",
    "workers": 0,
}
COLORS = {"random weights": "#c44e00", "weights of the digits 0 to 4": "#0b5cad"}


def colored(image, random):
    """Return a digit in a random color on another one, with noise."""
    ink, paper = random.uniform(0, 1, (2, 3))
    while abs(ink - paper).max() < MIN_CONTRAST:
        ink, paper = random.uniform(0, 1, (2, 3))
    gray = np.asarray(image)[..., :1] / 255
    pixels = paper + (ink - paper) * gray + random.normal(0, NOISE, (*gray.shape[:2], 3))
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))


def write(folder, examples, copies=1):
    """Write copies of images in random colors as PNG files, one subfolder per class."""
    random = np.random.default_rng(0)
    for index, (image, label) in enumerate(examples):
        for copy in range(copies):
            path = folder / str(label) / f"{index:04}-{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colored(image, random).save(path)
    return folder


def write_few(folder, source, images):
    """Write the first training images of each digit from 5 to 9, and all others of these digits for validation."""
    seen, few, others = Counter(), [], []
    for image, label in source.train:
        if label in SECOND:
            (few if seen[label] < images else others).append((image, label))
            seen[label] += 1
    others += [each for each in (*source.val, *source.test) if each[1] in SECOND]
    write(folder / "train", few)
    write(folder / "val", others)
    return folder


def trained(**options):
    """Train a run, or continue it if it was begun before."""
    out = options["out"]
    if (out / "config.json").is_file():
        return resume(out) if Run.open(out).unfinished() else Run.open(out)
    return train(resolve(**RECIPE, **options).config)


def accuracies(run):
    """Return the validation accuracy of a run after each epoch, in percent."""
    return [100 * record["val_accuracy"] for record in run.metrics()]


def measure(options):
    """Train all runs; return, for each kind of weights, the accuracies of each seed."""
    source = open_source("digits")
    first = write(options.out / "first", [each for each in source.train if each[1] in FIRST], COPIES)
    few = write_few(options.out / "few", source, options.images)
    start = trained(
        data=first, out=options.out / "pretrained", epochs=options.pretraining_epochs, batch_size=32, lr=2e-3
    )
    print(f"digits 0 to 4: {accuracies(start)[-1]:.1f} % after the last epoch", flush=True)
    curves = {kind: [] for kind in COLORS}
    for seed in options.seeds:
        for kind, weights in zip(curves, (None, start.path), strict=True):
            out = options.out / f"{'scratch' if weights is None else 'finetuned'}-{seed}"
            run = trained(
                data=few, out=out, epochs=options.epochs, batch_size=10, lr=options.lr, seed=seed, weights=weights
            )
            curves[kind].append(accuracies(run))
            print(f"{kind}, seed {seed}: {curves[kind][-1][-1]:.1f} % after the last epoch", flush=True)
    return curves


def print_table(curves, step):
    """Print the median of the seeds after every `step` epochs, and the lowest and the highest at the end."""
    medians = {kind: [statistics.median(each) for each in zip(*seeds, strict=True)] for kind, seeds in curves.items()}
    print("| epoch |", " | ".join(medians), "|")
    print("|--:|" + "--:|" * len(medians))
    epochs = len(next(iter(medians.values())))
    for epoch in sorted({1, *range(step, epochs + 1, step), epochs}):
        print(f"| {epoch} |", " | ".join(f"{median[epoch - 1]:.1f} %" for median in medians.values()), "|")
    for kind, seeds in curves.items():
        last = [seed[-1] for seed in seeds]
        print(f"{kind}: {min(last):.1f} to {max(last):.1f} % after the last epoch")


def draw(curves, images, file):
    """Draw the accuracy of each seed, thin, and their median."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, seeds in curves.items():
        epochs = range(1, len(seeds[0]) + 1)
        for seed in seeds:
            axes.plot(epochs, seed, color=COLORS[kind], linewidth=0.9, alpha=0.45)
        median = [statistics.median(each) for each in zip(*seeds, strict=True)]
        axes.plot(epochs, median, color=COLORS[kind], linewidth=2.8, label=f"from {kind}")
    axes.axhline(20, color="#666666", linewidth=1, linestyle=":", label="chance")
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 100), xlim=(1, max(epochs.stop - 1, 2)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"nat_nano on {images} images per class of the colored digits 5 to 9")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=150, facecolor="white")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"), help="folder of images and runs")
    parser.add_argument("--picture", type=Path, help="default: finetune.png in that folder")
    parser.add_argument("--images", type=int, default=30, help="training images per class of the digits 5 to 9")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretraining-epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    curves = measure(options)
    print_table(curves, max(options.epochs // 6, 1))
    draw(curves, options.images, options.picture or options.out / "finetune.png")


if __name__ == "__main__":
    main()
