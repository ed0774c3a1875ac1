"""Programs for phones: ExecuTorch with the XNNPACK backend, which also runs here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from regard.errors import UnsupportedError
from regard.exporting.metadata import KEY, Metadata
from regard.extras import require

EXTRA = "mobile"


def check_executorch(dynamic: Sequence[str]) -> None:
    """Check that ExecuTorch can take a program.

    Raises:
        UnsupportedError: dynamic axes, for whose upper bounds ExecuTorch would reserve memory.
        MissingDependencyError: ExecuTorch is not installed.
    """
    require("executorch.exir", EXTRA)
    if dynamic:
        raise UnsupportedError(f"a .pte file has fixed axes, got dynamic {', '.join(dynamic)}; leave them out")


def write_executorch(program: ExportedProgram, file: Path, metadata: Metadata) -> None:
    """Write a program without regard's operators; its method `regard` returns the metadata."""
    exir = require("executorch.exir", EXTRA)
    partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA).XnnpackPartitioner()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # ExecuTorch's kernel refuses the memory layout that XNNPACK's convolutions return.
            program = program.run_decompositions({torch.ops.aten.group_norm.default: _group_norm})
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[partitioner], constant_methods={KEY: metadata.dumps()}
            )
            file.write_bytes(lowered.to_executorch().buffer)
    finally:
        logging.disable(before)


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Compute `aten.group_norm`, which has these arguments, by other operators."""
    rows = x.reshape(x.shape[0], groups, -1)
    centered = rows - rows.mean(-1, keepdim=True)
    scale = ((centered * centered).mean(-1, keepdim=True) + eps).rsqrt()
    out = (centered * scale).reshape(x.shape)
    shape = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if weight is not None:
        out = out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


def open_executorch(file: Path) -> tuple[str | None, Callable[[Tensor], Tensor]]:
    """Load a file in ExecuTorch's runtime for Python, and return its metadata and what calls it."""
    program = require("executorch.runtime", EXTRA).Runtime.get().load_program(str(file))
    metadata = program.load_method(KEY).execute([])[0] if KEY in program.method_names else None
    loaded = (program, program.load_method("forward"))  # a method does not keep its program alive

    def call(x: Tensor) -> Tensor:
        try:
            return loaded[-1].execute([x.contiguous()])[0].clone()  # the next call overwrites it
        except RuntimeError as error:
            raise UnsupportedError(
                f"ExecuTorch cannot run {file.name!r} on {list(x.shape)} in {x.dtype} ({error}); the reason is on "
                "standard error. Export for another batch, or to another format"
            ) from error

    return metadata, call
