"""The ways to run a model on the CPU: each takes a model in evaluation mode and a batch, and returns a call."""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

import regard


def eager(model, x):
    return partial(model, x)


def compiled(model, x):
    torch._dynamo.reset()
    return partial(torch.compile(model), x)


def compiled_freezing(model, x):
    call = compiled(model, x)
    with inductor.patch(freezing=True):
        call()  # compiles
    return call


def fused(model, x):
    return partial(regard.fuse(model, inference=True, example=x), x)


def frozen(model, x):
    return partial(regard.freeze(model, x), x)


def bfloat16(model, x):
    return partial(model.bfloat16(), x.bfloat16())


def frozen_bfloat16(model, x):
    return partial(regard.freeze(model, x, dtype=torch.bfloat16), x)


def onnxruntime(model, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(
            write_onnx(model, x, folder), options, providers=["CPUExecutionProvider"]
        )
    inputs = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def openvino(model, x):
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        program = openvino.Core().compile_model(write_onnx(model, x, folder), "CPU", options)
    request, array = program.create_infer_request(), x.numpy()
    return lambda: torch.from_numpy(request.infer([array], share_inputs=True)[0])


@torch.inference_mode(False)
@torch.no_grad()
def write_onnx(model, x, folder):
    """Export the model by PyTorch's exporter, with the references in place of regard's operators; return the file."""
    table = {**torch.export.default_decompositions(), **regard.decompositions()}
    program = torch.export.export(model, (x,)).run_decompositions(table)
    file = Path(folder) / "model.onnx"
    torch.onnx.export(program, (), file, dynamo=True, verbose=False)
    return str(file)


class Runtime(NamedTuple):
    """A way to run a model, the packages and the function of regard that it needs, and the dtype it computes in."""

    prepare: Callable[[nn.Module, Tensor], Callable[[], Tensor]]
    packages: tuple[str, ...] = ()
    function: str = ""
    dtype: str = "float32"

    def problem(self):
        """Return why this installation cannot use the runtime, or an empty string."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            return f"{' and '.join(missing)} missing: pip install 'regard[bench]'"
        if self.function and not hasattr(regard, self.function):
            return f"this version of regard has no {self.function}()"
        return ""


EXPORTER = ("onnx", "onnxscript")
RUNTIMES = {
    "eager": Runtime(eager),
    "compiled": Runtime(compiled),
    "compiled_freezing": Runtime(compiled_freezing),
    "fused": Runtime(fused),
    "frozen": Runtime(frozen, function="freeze"),
    "bfloat16": Runtime(bfloat16, dtype="bfloat16"),
    "frozen_bfloat16": Runtime(frozen_bfloat16, function="freeze", dtype="bfloat16"),
    "onnxruntime": Runtime(onnxruntime, (*EXPORTER, "onnxruntime")),
    "openvino": Runtime(openvino, (*EXPORTER, "openvino")),
}
