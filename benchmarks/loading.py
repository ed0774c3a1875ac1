"""Compare the speed of reading training images with timm's loader, in images per second.

Both read the same temporary folder of JPEGs with timm's training transform and the same number of worker processes.
They take turns. The ratio is the median over the rounds.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader

from common import argument_parser, bar_cell, load, start
from regard.training import open_source
from regard.training.data import ImageDataset, collate
from regard.training.order import Batches

BAR = 0.9
SIZE = (500, 375)  # as many images of ImageNet
BATCH = 64


def write_images(root, count):
    """Write smooth random JPEGs in two classes."""
    noise = np.random.default_rng(0)
    for index in range(count):
        pixels = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        path = root / ("even", "odd")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)


def timm_loader(root, workers):
    """Return timm's loader of training images; its dataset has the transform."""
    return create_loader(
        create_dataset("", str(root)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=workers,
    )


def regard_loader(root, workers, transform):
    """Return regard's loader of all images of the folder, as in training."""
    source = open_source(root)
    dataset = ImageDataset((*source.train, *source.val), transform)
    batches = Batches(len(dataset), BATCH, seed=0)
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
    )


def rate(loader):
    """Return the images per second of one epoch."""
    begin, images = time.perf_counter(), 0
    for pixels, *_ in loader:
        images += len(pixels)
    return images / (time.perf_counter() - begin)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = start(parser)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        theirs = timm_loader(folder, options.workers)
        ours = regard_loader(folder, options.workers, theirs.dataset.transform)
        rates = [(rate(theirs), rate(ours)) for _ in range(options.rounds + 1)][1:]  # the first round starts workers
    before, after = map(statistics.median, zip(*rates, strict=True))
    ratio = statistics.median(own / other for other, own in rates)
    table = Table("images of 500x375", "timm", "regard", "ratio", "bar", title=f"{options.workers} workers, images/s")
    table.add_row(str(options.images), f"{before:.0f}", f"{after:.0f}", f"{ratio:.2f}", bar_cell(BAR, ratio >= BAR))
    Console(width=100).print(table)
    print(f"ratios {', '.join(f'{own / other:.2f}' for other, own in rates)}; load {load()} at the end")


if __name__ == "__main__":
    main()
