"""Measure one row of the table: one model in one runtime, in turn with the baseline. `table.py` starts this program.

The baseline is timm's model in eager mode, or regard's if timm has no such model, with the same weights.
"""

import json
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import machine
from common import product_rate, select, timings, timm_model
from regard.models import create_model
from runtimes import RUNTIMES

MIN_ROUNDS, MAX_ROUNDS = 5, 41
WRITERS = ("mm", "addmm", "bmm", "baddbmm", "convolution")


class Activations(TorchDispatchMode):
    """Count the elements that convolutions and matrix products write to memory."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **({} if kwargs is None else kwargs))
        if function.overloadpacket.__name__ in WRITERS:
            self.elements += result.numel()
        return result


def build(name, library):
    """Return the model, the baseline with equal weights, and the baseline's library."""
    torch.manual_seed(0)
    if not timm.is_model(name):
        baseline, source = create_model(name), "regard"
    else:
        baseline, source = timm_model(name), "timm"
    if library == "regard":
        model = create_model(name, weights=baseline.state_dict())
    else:
        model = timm.create_model(name)
        model.load_state_dict(baseline.state_dict())
    return model.eval(), baseline.eval(), source


def size(model, image_size):
    """Return the columns about a model's size, for one image."""
    image = torch.randn(1, 3, image_size, image_size)
    model.requires_grad_(False)  # the counter looks for the gradients of parameters that are inputs, as in CaiT
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Activations() as activations:
        model(image)
    return {
        "infer_gmacs": f"{flops.get_total_flops() / 2e9:.3f}",
        "infer_macts": f"{activations.elements / 1e6:.3f}",
        "param_count": f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.3f}",
    }


def difference(result, expected):
    """Return the largest difference of the outputs, relative to the largest expected value."""
    if not result.isfinite().all():
        raise ArithmeticError("the outputs are not finite")
    return ((result.float() - expected).abs().max() / expected.abs().max()).item()


def rounds_for(seconds, *calls):
    """Return how many rounds of the calls fit into the seconds, within limits."""
    begin = time.perf_counter()
    for call in calls:
        call()
    round_seconds = 2 * (time.perf_counter() - begin)  # each round has an untimed and a timed call
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds / round_seconds)))


@torch.inference_mode()
def measure(case, seconds):
    """Return the columns of a case; the calls of both models together take about `seconds`."""
    batch, image_size = int(case["infer_batch_size"]), int(case["infer_img_size"])
    runtime = RUNTIMES[case["runtime"]]
    with torch.inference_mode(False):  # parameters and inputs are ordinary tensors, as a user's
        model, baseline, source = build(case["model"], case["library"])
        sizes = size(model, image_size)
        x = torch.randn(batch, 3, image_size, image_size)
    expected = baseline(x)
    begin = time.perf_counter()
    call = runtime.prepare(model, x)
    result = call()
    prepared = time.perf_counter() - begin
    found = difference(result, expected)
    rounds = rounds_for(seconds, lambda: baseline(x), call)
    before, after = timings(lambda: baseline(x), call, rounds=rounds)
    seconds_per_call = statistics.median(after)
    speedup = statistics.median(old / new for old, new in zip(before, after, strict=True))
    return {
        **sizes,
        "infer_samples_per_sec": f"{batch / seconds_per_call:.2f}",
        "infer_step_time": f"{1e3 * seconds_per_call:.3f}",
        "dtype": runtime.dtype,
        "baseline": f"{source} eager",
        "speedup": f"{speedup:.3f}",
        "difference": f"{found:.1e}",
        "prepare_seconds": f"{prepared:.2f}",
        "rounds": str(rounds),
        "mm_gflops": f"{product_rate(rounds=3) / 1e9:.1f}",
        "load": machine.load(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }


def main():
    task, output = json.loads(sys.argv[1]), Path(sys.argv[2])
    select(task["instruction_set"], task["threads"])
    row = {**task["case"], **machine.facts(), **measure(task["case"], task["seconds"])}
    output.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
