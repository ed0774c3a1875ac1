"""Compare the training loop with the bare steps of PyTorch, in speed and in memory: `make bench`.

The bare loop is forward, loss, backward, optimizer step and nothing else, on batches that are in memory already. Both
loops take turns. The memory is that of a process of its own per loop.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from common import argument_parser, bar_cell, start
from regard.benchmark import peak_memory
from regard.training import Run, TrainConfig, Watcher, open_source
from regard.training.interrupts import Signals
from regard.training.loop import Loop
from regard.training.objective import Objective
from regard.training.optimization import make_optimizer
from regard.training.setup import make_accelerator, make_loaders, make_model, make_preprocessing, run_config

MODELS = ("nat_nano", "swiftformer_nano")
BATCH, STEPS = 64, 19
BAR, MEMORY_BAR = 1.10, 1.05


def config_for(name, out):
    """Return a config whose steps are those of the bare loop."""
    return TrainConfig(model=name, data="digits", out=out, batch_size=BATCH, epochs=1000, device="cpu", overwrite=True)


class Bare:
    """The steps of PyTorch alone."""

    def __init__(self, loop, batches):
        self.model, self.batches = loop.model, batches
        self.optimizer = make_optimizer(loop.config, self.model)

    def epoch(self):
        self.model.train()
        for images, labels, _ in self.batches:
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=0.1)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class Memory:
    """Batches in memory, in place of the images' loader."""

    def __init__(self, loaders, batches):
        self.batches, self.names, self.val, self.missing_val = loaders.batches, loaders.names, loaders.val, 0
        self.kept = batches

    def epoch(self, epoch, step):
        return iter(self.kept)


def make_loop(config):
    """Return a loop as `train` builds it."""
    source, accelerator = open_source(config.data), make_accelerator(config)
    model = make_model(config, len(source.classes))
    preprocessing = make_preprocessing(config, model)
    run = Run(Path(config.out), run_config(config, source, preprocessing, 1))
    loaders = make_loaders(config, source, preprocessing, 0, 1)
    return Loop(config, run, model, loaders, Objective(config, len(source.classes)), accelerator, Watcher())


def loops_for(name, out):
    """Return regard's loop and the bare one, on the same batches."""
    loop = make_loop(config_for(name, out))
    batches = list(loop.loaders.epoch(1, 0))
    loop.loaders = Memory(loop.loaders, batches)
    return loop, Bare(make_loop(config_for(name, f"{out}-bare")), batches)


def ours(loop):
    """Run the steps of an epoch."""
    loop.at.step = 0
    with Signals() as signals:
        for _ in loop.learn(signals):
            pass


def measure(name, rounds):
    """Return the seconds of an epoch of both loops, and the median of the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        loop, bare = loops_for(name, f"{folder}/run")
        pairs = []
        for _ in range(rounds + 1):
            times = []
            for call in (lambda: ours(loop), bare.epoch):
                begin = time.perf_counter()
                call()
                times.append(time.perf_counter() - begin)
            pairs.append(times)
    mine, other = zip(*pairs[1:], strict=True)
    return median(mine), median(other), median(map(float.__truediv__, mine, other))


def memory_of(name, which):
    """Return the bytes that an epoch adds, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", json.dumps([name, which])]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def print_memory(name, which):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loop, bare = loops_for(name, f"{folder}/run")
        print(peak_memory((lambda: ours(loop)) if which == "ours" else bare.epoch))


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory-of", help="for this program's own use")
    if "--memory-of" in sys.argv:
        print_memory(*json.loads(parser.parse_args().memory_of))
        return
    options = start(parser)
    table = Table(title=f"batch {BATCH}")
    for heading in ("model", "steps alone", "our loop", "ratio", "bar", "memory, ratio", "bar"):
        table.add_column(heading)
    for name in MODELS:
        mine, other, ratio = measure(name, options.rounds)
        memory = memory_of(name, "ours") / memory_of(name, "bare")
        table.add_row(
            name,
            f"{1e3 * other / STEPS:.1f} ms",
            f"{1e3 * mine / STEPS:.1f} ms",
            f"{ratio:.3f}",
            bar_cell(BAR, ratio <= BAR),
            f"{memory:.3f}",
            bar_cell(MEMORY_BAR, memory <= MEMORY_BAR),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
