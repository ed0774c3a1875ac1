"""Measure throughput with several threads and several processes, under settings of the OpenMP runtime.

All processes of a row run at the same time and do the same work. Rows take turns. Images or loops `per second` are the
sum over the processes, `CPU ms` is the processor time of each, `slept` how often a thread waited asleep for each, and
`preempted` how often the system took its core away.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from common import argument_parser, load, select, start
from regard.models import create_model
from regard.training.devices import count_cores

CORES = count_cores()
GROUP = 16  # images of a training step


class Setting(NamedTuple):
    """How many processes with how many threads each, their environment, and whether each has cores of its own."""

    processes: int
    threads: int
    environment: dict[str, str] = {}  # noqa: RUF012
    pinned: bool = False

    def __str__(self):
        names = [f"{name}={value}" for name, value in self.environment.items()] + ["pinned apart"] * self.pinned
        return f"{self.processes} x {self.threads} threads" + (f", {', '.join(names)}" if names else "")


def settings(processes):
    """Return the settings: one process alone, then several that share the cores or compete for them."""
    competing = (processes, CORES)
    return [
        *(Setting(1, threads) for threads in sorted({1, CORES})),
        Setting(processes, max(1, CORES // processes)),
        Setting(*competing),
        Setting(*competing, {"OMP_WAIT_POLICY": "passive"}),
        Setting(*competing, {"GOMP_SPINCOUNT": "1000"}),
        Setting(*competing, {"OMP_WAIT_POLICY": "active"}),
        Setting(*competing, {"OMP_PROC_BIND": "true"}),
        Setting(*competing, {"OMP_DYNAMIC": "true"}),
        Setting(processes, max(1, CORES // processes), pinned=True),
    ]


def regions():
    """Return a call of the smallest parallel loop of PyTorch: its time is that of starting threads and waiting."""
    x = torch.zeros(65536)
    return lambda: x.add_(1)


def inference():
    model, images = create_model("swiftformer_xs").eval(), torch.randn(1, 3, 224, 224)
    return torch.inference_mode()(lambda: model(images))


def training():
    model = create_model("nat_nano", num_classes=10)
    images, classes = torch.randn(GROUP, 3, 8, 8), torch.randint(10, (GROUP,))
    optimizer = torch.optim.AdamW(model.parameters())

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()

    return train


TASKS = {  # what returns a call, and what one call counts
    "regions": (regions, "parallel loops", 1),
    "inference": (inference, "images, swiftformer_xs", 1),
    "training": (training, "images of 8 pixels, nat_nano", GROUP),
}


def child(task, seconds):
    """Repeat the task's step for some seconds, when the parent says so, and print what it took."""
    build, _, units = TASKS[task]
    call = build()
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    before, begin, count = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while not count or time.perf_counter() - begin < seconds:
        call()
        count += 1
    taken = time.perf_counter() - begin
    after, done = resource.getrusage(resource.RUSAGE_SELF), count * units
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps(
            {
                "rate": done / taken,
                "cpu": used / done,
                "slept": (after.ru_nvcsw - before.ru_nvcsw) / done,
                "preempted": (after.ru_nivcsw - before.ru_nivcsw) / done,
            }
        )
    )


def run(setting, task, options):
    """Run the processes of a setting at the same time; return their figures: the rates' sum, the others' means."""
    command = [sys.executable, __file__, "--child", task, "--seconds", str(options.seconds)]
    command += ["--threads", str(setting.threads)]
    command += [] if options.instruction_set is None else ["--instruction-set", options.instruction_set]
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads), **setting.environment}
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(setting.processes)
    ]
    if setting.pinned:
        share = max(1, CORES // setting.processes)
        own = sorted(os.sched_getaffinity(0))
        for index, process in enumerate(children):
            os.sched_setaffinity(process.pid, {own[(index * share + place) % CORES] for place in range(share)})
    for process in children:
        process.stdout.readline()
    for process in children:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in children]
    figures = {name: statistics.mean(each[name] for each in found) for name in found[0]}
    return {**figures, "rate": sum(each["rate"] for each in found)}


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="time for each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        select(options.instruction_set, options.threads)
        child(options.child, options.seconds)
        return
    start(parser)
    for task in options.tasks:
        show(task, options)


def show(task, options):
    """Measure all settings of a task, and print a table of medians."""
    found = {setting: [] for setting in map(str, settings(options.processes))}
    for _ in range(options.rounds):
        for setting in settings(options.processes):
            found[str(setting)].append(run(setting, task, options))
            print(f"{task}, {setting}: {found[str(setting)][-1]['rate']:.1f} per second", flush=True)
    headings = ("processes and threads", "per second", "CPU ms", "slept", "preempted")
    table = Table(*headings, title=f"{task}: {TASKS[task][1]}")
    for setting, each in found.items():
        rate, used, *switches = (statistics.median(one[name] for one in each) for name in each[0])
        table.add_row(setting, f"{rate:.1f}", f"{1e3 * used:.2f}", *(f"{count:.2f}" for count in switches))
    Console(width=110).print(table)
    print(f"load {load()} at the end")


if __name__ == "__main__":
    main()
