"""Measure one row of the models' table: one model in one runtime, in turn with the baseline.

The baseline is timm's model in eager mode, or regard's if timm has no such model, with the same weights. Each row has a
process of its own: `python -m regard.benchmark.row TASK OUTPUT`, started by `regard.benchmark.models`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from regard.benchmark.machine import Machine, Steal
from regard.benchmark.race import relative_difference
from regard.benchmark.runtimes import RUNTIMES
from regard.extras import require
from regard.models import create_model
from regard.timing import time_in_turn

WRITERS = ("mm", "addmm", "bmm", "baddbmm", "convolution")


class Activations(TorchDispatchMode):
    """Count the elements that convolutions and matrix products write to memory."""

    elements = 0

    def __torch_dispatch__(
        self,
        function: OpOverload[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Call the operator, and count."""
        result = function(*args, **({} if kwargs is None else kwargs))
        if function.overloadpacket.__name__ in WRITERS:
            self.elements += result.numel()
        return result


def build(name: str, library: str) -> tuple[nn.Module, nn.Module, str]:
    """Return the model, the baseline with equal weights, and the baseline's library; both with random weights."""
    torch.manual_seed(0)
    timm = require("timm", "train")
    if timm.is_model(name):
        baseline, source = _with_statistics(timm.create_model(name)), "timm"
    else:
        baseline, source = create_model(name), "regard"
    if library == "regard":
        model = create_model(name, weights=baseline.state_dict())
    else:
        model = timm.create_model(name)
        model.load_state_dict(baseline.state_dict())
    return model.eval(), baseline.eval(), source


def _with_statistics(model: nn.Module) -> nn.Module:
    """Draw what random weights lack: layer scales that hide nothing, and norms whose folding changes weights."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "gamma" in key or "layer_scale" in key:
                parameter.fill_(1.0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def count(model: nn.Module, image_size: int) -> dict[str, str]:
    """Return the columns about a model's cost, for one image."""
    image = torch.randn(1, 3, image_size, image_size)
    model.requires_grad_(False)  # the counter looks for the gradients of parameters that are inputs, as in CaiT
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Activations() as activations:  # type: ignore[no-untyped-call]
        model(image)
    return {
        "infer_gmacs": f"{flops.get_total_flops() / 2e9:.3f}",
        "infer_macts": f"{activations.elements / 1e6:.3f}",
        "param_count": f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.3f}",
    }


@torch.inference_mode()
def measure_row(case: Mapping[str, str], seconds: float) -> dict[str, str]:
    """Return the columns of a case; the calls of both models together take about `seconds`."""
    batch, image_size = int(case["infer_batch_size"]), int(case["infer_img_size"])
    runtime, steal = RUNTIMES[case["runtime"]], Steal()
    with torch.inference_mode(False):  # parameters and inputs are ordinary tensors, as a user's
        model, baseline, source = build(case["model"], case["library"])
        counts = count(model, image_size)
        x = torch.randn(batch, 3, image_size, image_size)
    expected = baseline(x)
    begin = time.perf_counter()
    call = runtime.prepare(model, x)
    result = call()
    prepared = time.perf_counter() - begin
    difference = relative_difference(result, expected)
    calls: dict[str, Callable[[], Tensor]] = {"before": partial(baseline, x), "after": call}
    times = time_in_turn(calls, seconds)
    machine = Machine.measure(0.3)
    return {
        **machine.columns,
        **counts,
        "infer_samples_per_sec": f"{batch / times['after'].median:.2f}",
        "infer_step_time": f"{1e3 * times['after'].median:.3f}",
        "dtype": runtime.dtype,
        "baseline": f"{source} eager",
        "speedup": f"{times['before'].ratio_to(times['after']):.3f}",
        "spread": f"{times['after'].spread:.3f}",
        "difference": f"{difference:.1e}",
        "prepare_seconds": f"{prepared:.2f}",
        "rounds": str(len(times["after"].seconds)),
        "mm_gflops": f"{machine.flops / 1e9:.1f}",
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "steal": "" if (share := steal.share()) is None else f"{share:.3f}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }


def main() -> None:
    """Measure the case that the first argument describes, and write its row to the file that the second one names."""
    task, output = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(task["threads"])
    output.write_text(json.dumps({**task["case"], **measure_row(task["case"], task["seconds"])}))


def end_with_parent() -> None:
    """End this process at once when the one that holds the other end of its standard input has ended, however."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    main()
