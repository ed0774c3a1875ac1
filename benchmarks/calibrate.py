"""Measure which replacements are faster on this processor, for `fuse(measure=False)`: `make calibrate`.

Every model is prepared for inference in all forms. The geometric mean of the speed-ups of each kind of replacement
becomes the entry of this processor's instruction set in `surgery/calibration.json`.
Usage: calibrate.py [--threads 2] [model ...]
"""

import json
from collections import defaultdict
from statistics import geometric_mean

import torch

from common import argument_parser, start
from fuse import MODELS, build, image
from regard.attention import native_library
from regard.benchmark.machine import processor
from regard.surgery import calibration
from regard.surgery.choose import choose_folded
from regard.surgery.judge import Stopwatch
from regard.surgery.replace import Replacer
from regard.surgery.search import find


class Recorder(Stopwatch):
    """A stopwatch that keeps the speed-ups of every kind of replacement, one per group of equal modules."""

    def __init__(self, example, speedups):
        super().__init__(example, is_training=False)
        self.speedups = speedups

    def decide(self, model, choices):
        times = super().decide(model, choices)
        kinds = {id(times[one.path]): (one.kind, times[one.path].speedup) for one in choices if one.path in times}
        for kind, speedup in kinds.values():
            self.speedups[kind].append(speedup)
        return times


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    options = start(parser)
    torch.manual_seed(0)
    speedups = defaultdict(list)
    for name in options.models:
        model = build(name)
        example = image(model)
        replacer = Replacer(model, find(model)[0], example, "")
        replacer.replace()
        _, trials = choose_folded(replacer, Recorder(example, speedups))
        for plan, times in trials.items():
            speedups[f"plan {plan}"].append(times.speedup)
        print(name, *(f"{plan} {times.speedup:.2f}" for plan, times in trials.items()), sep="\t", flush=True)
    stored = json.loads(calibration.FILE.read_text())
    stored[native_library().instruction_set] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "speedups": {kind: round(geometric_mean(each), 3) for kind, each in sorted(speedups.items())},
    }
    calibration.FILE.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    print(calibration.FILE.read_text())


if __name__ == "__main__":
    main()
