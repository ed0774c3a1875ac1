"""Exported files, opened in their runtimes: each takes a tensor and returns a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import ZipFile

import torch
from torch import Tensor

from regard.errors import DataError, OptionError, RegardError, UnsupportedError
from regard.exporting.compiled import is_compiled, open_compiled
from regard.exporting.metadata import KEY, Metadata
from regard.exporting.mobile import open_executorch
from regard.exporting.openvino_operators import openvino_operators
from regard.extras import require
from regard.native import loader

Session: TypeAlias = Any
"""Of ONNX Runtime, which is not installed everywhere."""
FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino", ".pte": "executorch"}
"""By the ending of the file."""
EXTRA_FILE = f"{KEY}.json"


@dataclass(frozen=True)
class Opened:
    """An exported model that can be called.

    Attributes:
        file: where it is.
        format: "onnx", "pt2", "openvino" or "executorch".
        metadata: what the file says about itself; None if regard has not written it.
        call: takes a batch and returns logits, or probabilities if the file is preprocessed.
    """

    file: Path
    format: str
    metadata: Metadata | None
    call: Callable[[Tensor], Tensor]

    @classmethod
    def open(cls, file: str | Path) -> Opened:
        """Open a file in the runtime that its ending names, on as many threads as PyTorch uses.

        Raises:
            OptionError: another ending.
            DataError: the file is missing or damaged.
            MissingDependencyError: the runtime is not installed.
        """
        path = Path(file)
        kind = format_of(path)
        if not path.is_file():
            raise DataError(f"expected an exported model, got {str(path)!r}, which is no file; check the name")
        try:
            metadata, call = OPENERS[kind](path)
        except RegardError:
            raise
        except Exception as error:  # the runtimes' own kinds
            lines = [line for line in str(error).strip().split("\n") if "Exception from" not in line]
            reason = lines[0] if lines else type(error).__name__  # OpenVINO's first line is a place in its code
            raise DataError(f"expected an exported model, got {str(path)!r} ({reason}); export it again") from error
        return cls(path, kind, None if metadata is None else Metadata.loads(metadata), call)


def format_of(file: str | Path) -> str:
    """Return the format that the ending of a file names.

    Example:
        >>> format_of("model.onnx")
        'onnx'

    Raises:
        OptionError: another ending.
    """
    ending = Path(file).suffix.lower()
    if ending not in FORMATS:
        raise OptionError.unknown("ending of an exported model", ending or str(file), FORMATS)
    return FORMATS[ending]


def operators_library() -> Path:
    """Return the library of regard's operators for ONNX Runtime, for `SessionOptions.register_custom_ops_library`.

    Raises:
        UnsupportedError: regard was installed without a compiler.
    """
    for folder in loader.folders():
        for name in ("libregard_onnxruntime.so", "libregard_onnxruntime.dylib"):
            if (folder / name).is_file():
                return folder / name
    raise UnsupportedError(
        "there is no library of regard's operators for ONNX Runtime: regard was installed without its native library; "
        "install it again with a C++ compiler"
    )


def onnx_session(model: str | Path | bytes, *, kernels: str = "standard", optimize: bool = True) -> Session:
    """Return an ONNX Runtime session on the CPU.

    Args:
        model: a file, or its content.
        kernels: "regard" registers the library of operators.
        optimize: whether the runtime may fuse nodes, which removes values between them.
    """
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # By default its threads wait in a loop for the next call, and take the cores from PyTorch's threads meanwhile.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # errors are exceptions already
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if kernels == "regard":
        options.register_custom_ops_library(str(operators_library()))
    content = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _open_onnx(path: Path) -> tuple[str | None, Callable[[Tensor], Tensor]]:
    onnx = require("onnx", "export")
    model = onnx.load(str(path), load_external_data=False)
    kernels = "regard" if any(one.domain == "regard" for one in model.opset_import) else "standard"
    session = onnx_session(path, kernels=kernels)
    name = session.get_inputs()[0].name
    metadata = session.get_modelmeta().custom_metadata_map.get(KEY)
    return metadata, lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _open_pt2(path: Path) -> tuple[str | None, Callable[[Tensor], Tensor]]:
    _check_sums(path)
    if is_compiled(path):
        return open_compiled(path)
    extra = {EXTRA_FILE: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            return module(x)

    return extra[EXTRA_FILE] or None, call


def _check_sums(path: Path) -> None:
    """Compare an archive's files with their checksums, which PyTorch stores, but does not read."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise DataError(f"{str(path)!r} is damaged: {damaged} does not fit its checksum; export it again")


def _open_openvino(path: Path) -> tuple[str | None, Callable[[Tensor], Tensor]]:
    runtime = require("openvino", "export")
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = runtime.Core()
    for operator in openvino_operators():
        core.add_extension(operator)
    model = core.read_model(str(path))
    metadata = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return metadata, lambda x: torch.from_numpy(request.infer([x.numpy()])[0].copy())


OPENERS = {"onnx": _open_onnx, "pt2": _open_pt2, "openvino": _open_openvino, "executorch": open_executorch}
