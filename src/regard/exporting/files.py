"""Programs as files: ONNX, PyTorch's own format, OpenVINO's."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import torch
from torch.export import ExportedProgram

from regard.exporting.metadata import KEY, Metadata
from regard.exporting.nodes import pack
from regard.exporting.opened import EXTRA_FILE
from regard.exporting.openvino_operators import conversions
from regard.extras import require

OPSET = 20
INPUT, PIXELS, LOGITS, PROBABILITIES = "image", "pixels", "logits", "probabilities"
KEPT_BY_TORCH = ("val", "tensor_meta", "unbacked_bindings")
KEPT = "pkg.torch.onnx.name_scopes"
"""Of the exporter's notes about a node: the modules that it came from."""


def write_onnx(program: ExportedProgram, file: Path, metadata: Metadata, *, packs: bool = True) -> ExportedProgram:
    """Write a program whose operators are ONNX's or regard's; return the program that has the file's nodes.

    Args:
        program: the program.
        file: where to.
        metadata: is stored in the file.
        packs: gives regard's nodes whole projections, as ONNX Runtime's library takes them.
    """
    onnx = require("onnx", "export")
    require("onnxscript", "export")
    taken, given = (PIXELS, PROBABILITIES) if metadata.is_preprocessed else (INPUT, LOGITS)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own code
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[taken],
            output_names=[given],
        )
    model = made.model_proto
    if packs:
        pack(model.graph)
    for node in model.graph.node:
        kept = [one for one in node.metadata_props if one.key == KEPT]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.helper.set_model_props(model, {KEY: metadata.dumps()})
    model.producer_name, model.producer_version = "regard", metadata.versions.get("regard", "")
    onnx.save(model, str(file))
    return made.exported_program


def write_pt2(program: ExportedProgram, file: Path, metadata: Metadata) -> None:
    """Write a program of PyTorch; one with regard's operators needs `import regard` where it is loaded."""
    for node in program.graph.nodes:  # where each node came from takes more bytes than small models' weights
        node.meta = {key: value for key, value in node.meta.items() if key in KEPT_BY_TORCH}
    program.example_inputs = None
    stored = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, stored, extra_files={EXTRA_FILE: metadata.dumps()})
    with ZipFile(stored) as source, ZipFile(file, "w") as target:  # the graph is text, and shrinks to a tenth
        for entry in source.infolist():
            kind = ZIP_DEFLATED if entry.filename.endswith(".json") else ZIP_STORED
            target.writestr(entry, source.read(entry), compress_type=kind)


def write_openvino(onnx_file: Path, file: Path, metadata: Metadata) -> None:
    """Write OpenVINO's pair of files, from an ONNX file with ONNX's own operators; weights stay in float32."""
    openvino = require("openvino", "export")
    model = openvino.convert_model(str(onnx_file), extension=conversions() if metadata.kernels == "regard" else None)
    model.set_rt_info(metadata.dumps(), [KEY])
    openvino.save_model(model, str(file), compress_to_fp16=False)
