"""The ways to run a model on the CPU: each takes a model in evaluation mode and a batch, and returns a call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regard.exporting import Metadata, Opened, make_program, write_file
from regard.models import Preprocessing
from regard.surgery import freeze, fuse

Call = Callable[[], Tensor]


def eager(model: nn.Module, x: Tensor) -> Call:
    """Call the model as it is."""
    return partial(model, x)


def compiled(model: nn.Module, x: Tensor) -> Call:
    """Call it through `torch.compile`."""
    torch._dynamo.reset()
    return partial(torch.compile(model), x)


def compiled_freezing(model: nn.Module, x: Tensor) -> Call:
    """Call it through `torch.compile` with Inductor's `freezing`, which packs weights."""
    call = compiled(model, x)
    with torch.no_grad(), import_module("torch._inductor.config").patch(freezing=True):
        call()  # compiles
    return call


def fused(model: nn.Module, x: Tensor) -> Call:
    """Call what `regard.fuse` makes of it."""
    return partial(fuse(model, inference=True, example=x), x)


def frozen(model: nn.Module, x: Tensor) -> Call:
    """Call what `regard.freeze` makes of it."""
    return partial(freeze(model, x), x)


def bfloat16(model: nn.Module, x: Tensor) -> Call:
    """Call it with weights and images in bfloat16."""
    return partial(model.bfloat16(), x.bfloat16())


def frozen_bfloat16(model: nn.Module, x: Tensor) -> Call:
    """Call what `regard.freeze` makes of it in bfloat16."""
    return partial(freeze(model, x, dtype=torch.bfloat16), x)


def pt2(model: nn.Module, x: Tensor) -> Call:
    """Call the program of `torch.export`, with regard's operators."""
    program = make_program(model.requires_grad_(False), x, kernels="torch")
    return partial(program.module(), x)


def onnxruntime(model: nn.Module, x: Tensor) -> Call:
    """Call ONNX Runtime on ONNX's own operators, with as many threads as PyTorch."""
    return _onnxruntime(model, x, "standard")


def onnxruntime_regard(model: nn.Module, x: Tensor) -> Call:
    """Call ONNX Runtime with regard's operators."""
    return _onnxruntime(model, x, "regard")


def openvino(model: nn.Module, x: Tensor) -> Call:
    """Call OpenVINO in float32, with as many threads as PyTorch."""
    return _opened(model, x, "model.xml", "standard")


def openvino_regard(model: nn.Module, x: Tensor) -> Call:
    """Call OpenVINO with regard's operators."""
    return _opened(model, x, "model.xml", "regard")


def _onnxruntime(model: nn.Module, x: Tensor, kernels: str) -> Call:
    return _opened(model, x, "model.onnx", kernels)


@torch.inference_mode(False)
def _opened(model: nn.Module, x: Tensor, name: str, kernels: str) -> Call:
    """Export the model and open the file, which is not verified: the table compares all runtimes."""
    metadata = Metadata("", "", (), Preprocessing(), kernels=kernels, batch=len(x))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / name
        write_file(make_program(model, x, kernels=kernels), file, metadata)
        call = Opened.open(file).call
    return partial(call, x)


class Runtime(NamedTuple):
    """A way to run a model, the packages that it needs, and the dtype it computes in."""

    prepare: Callable[[nn.Module, Tensor], Call]
    packages: Sequence[str] = ()
    dtype: str = "float32"

    def problem(self) -> str:
        """Return why this installation cannot use the runtime, or an empty string."""
        missing = [package for package in self.packages if find_spec(package) is None]
        return f"{' and '.join(missing)} missing: pip install 'regard[bench]'" if missing else ""


EXPORTER = ("onnx", "onnxscript")
RUNTIMES = {
    "eager": Runtime(eager),
    "compiled": Runtime(compiled),
    "compiled_freezing": Runtime(compiled_freezing),
    "fused": Runtime(fused),
    "frozen": Runtime(frozen),
    "bfloat16": Runtime(bfloat16, dtype="bfloat16"),
    "frozen_bfloat16": Runtime(frozen_bfloat16, dtype="bfloat16"),
    "pt2": Runtime(pt2),
    "onnxruntime": Runtime(onnxruntime, (*EXPORTER, "onnxruntime")),
    "onnxruntime_regard": Runtime(onnxruntime_regard, (*EXPORTER, "onnxruntime")),
    "openvino": Runtime(openvino, (*EXPORTER, "openvino")),
    "openvino_regard": Runtime(openvino_regard, (*EXPORTER, "openvino")),
}
"""By the names of the table's rows."""
OTHER_NAMES = {"torch": "eager", "onnx": "onnxruntime"}
"""Of runtimes, which the command line takes, too."""
