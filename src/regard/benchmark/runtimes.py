"""The ways to run a model on the CPU: each takes a model in evaluation mode and a batch, and returns a call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.attention import decompositions
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


def onnxruntime(model: nn.Module, x: Tensor) -> Call:
    """Call ONNX Runtime, with as many threads as PyTorch."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        session = runtime.InferenceSession(write_onnx(model, x, folder), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def openvino(model: nn.Module, x: Tensor) -> Call:
    """Call OpenVINO in float32, with as many threads as PyTorch."""
    runtime = import_module("openvino")
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        program = runtime.Core().compile_model(write_onnx(model, x, folder), "CPU", options)
    request, array = program.create_infer_request(), x.numpy()
    return lambda: torch.from_numpy(request.infer([array], share_inputs=True)[0])


@torch.inference_mode(False)
@torch.no_grad()
def write_onnx(model: nn.Module, x: Tensor, folder: str | Path) -> str:
    """Export the model by PyTorch's exporter, with the references in place of regard's operators; return the file."""
    table = {**torch.export.default_decompositions(), **decompositions()}
    program = torch.export.export(model, (x,)).run_decompositions(table)
    file = Path(folder) / "model.onnx"
    torch.onnx.export(program, (), file, dynamo=True, verbose=False)
    return str(file)


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
    "onnxruntime": Runtime(onnxruntime, (*EXPORTER, "onnxruntime")),
    "openvino": Runtime(openvino, (*EXPORTER, "openvino")),
}
"""By the names of the table's rows."""
