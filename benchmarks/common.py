"""What the benchmarks share: arguments, times, memory, bars, models, and the error budgets of the tests."""

import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import timm
import torch

from regard.benchmark import Machine
from regard.errors import UnsupportedError
from regard.native import loader

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for `budget` and `attention.oracle`

ROUNDS = 15
SIDE = 2048  # of the matrix product that kernels are compared with


def argument_parser(description):
    """Return a parser with the arguments of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--instruction-set", help="the library of kernels: x86_64_v4, x86_64_v3, portable; default: the best one"
    )
    parser.add_argument("--threads", type=int, help="default: torch's")
    return parser


def select(instruction_set, threads):
    """Load the library of an instruction set and set the number of threads; None keeps the default."""
    if instruction_set is not None:
        native = loader.load(instruction_set)
        if native.library is None:
            raise UnsupportedError(native.problem)
        loader.NATIVE = native
    if threads is not None:
        torch.set_num_threads(threads)


def start(parser, arguments=None):
    """Parse the arguments, select what they name, print the machine's facts, and return the arguments."""
    options = parser.parse_args(arguments)
    begin(parser, options)
    return options


def begin(parser, options):
    """Select what the arguments name, print the machine's facts, and return them."""
    try:
        select(options.instruction_set, options.threads)
    except UnsupportedError as error:
        parser.error(str(error))
    machine = Machine.measure()
    print(machine, flush=True)
    return machine


def timings(*calls, rounds=ROUNDS):
    """Return the seconds of each call, a list per call. They take turns, so that a noisy machine treats them alike.

    Each turn begins with an untimed call, since the call before has left its own data in the caches.
    """
    seconds = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            call()
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return seconds


def medians(*calls, rounds=ROUNDS):
    """Return the median seconds of each call, of `timings`."""
    return [statistics.median(times) for times in timings(*calls, rounds=rounds)]


def ratio(before, after, rounds=ROUNDS):
    """Return the median seconds of two calls that take turns, and the median of the ratios of their times.

    On one thread these are seconds of the processor, which other programs hardly disturb.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    pairs = []
    for place in range(rounds + 1):
        turn = ((0, before), (1, after))
        seconds = [0.0, 0.0]
        for which, call in turn if place % 2 else reversed(turn):
            begin = clock()
            call()
            seconds[which] = clock() - begin
        pairs.append(seconds)
    old, new = zip(*pairs[1:], strict=True)  # the first turn warms up
    return statistics.median(old), statistics.median(new), statistics.median(map(float.__truediv__, old, new))


def product():
    """Return a call of a large float32 `torch.mm`."""
    left = torch.randn(SIDE, SIDE)
    return partial(torch.mm, left, left)


def timm_model(name):
    """Build a timm model with random weights, for inference."""
    return with_statistics(timm.create_model(name))


def with_statistics(model):
    """Put a model with random weights in evaluation mode, and draw what random weights lack.

    Layer scales are 1, so that they do not hide the layers that they scale. Batch norms have statistics, so that
    folding them changes weights.
    """
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "gamma" in key or "layer_scale" in key:
                parameter.fill_(1.0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def load():
    """Return the average number of runnable threads in the last minute: far from 0, other programs disturb."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def milliseconds(seconds):
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def bar_cell(bar, is_met):
    """Return a table's cell for a bar, which says when it is missed."""
    return "" if bar is None else f"{bar}" if is_met else f"{bar}  missed"
