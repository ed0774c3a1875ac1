"""The first node of an ONNX file whose value differs from the program's that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from regard.exporting.files import KEPT
from regard.exporting.nodes import DOMAIN, Proto, attributes_of, compute
from regard.exporting.opened import onnx_session
from regard.extras import require

AT_ONCE = 48
"""Values that are read in one run, so that not all of them are in memory."""


def find_culprit(program: ExportedProgram, file: Path, x: Tensor, *, kernels: str, tolerance: float) -> str:
    """Return the first node that differs, and the module that it came from; empty if no common value does.

    Args:
        program: of which the file was made; its values have the names of the file's.
        file: ONNX.
        x: a batch on which the outputs differ.
        kernels: of the file.
        tolerance: relative to the largest value of a tensor.
    """
    onnx = require("onnx", "export")
    model = onnx.load(str(file))
    places = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    ours = {name: model.graph.node[place] for name, place in places.items() if model.graph.node[place].domain == DOMAIN}
    recorded = _values(program, x, ours)
    common = sorted((name for name in recorded if name in places), key=places.__getitem__)
    for start in range(0, len(common), AT_ONCE):
        names = common[start : start + AT_ONCE]
        for name, value in zip(names, _read(model, names, x, kernels), strict=True):
            if _differs(torch.from_numpy(value), recorded[name], tolerance):
                return _describe(model.graph.node[places[name]], name)
    return ""


def _values(program: ExportedProgram, x: Tensor, ours: Mapping[str, Proto]) -> dict[str, Tensor]:
    """Return the values of floating-point nodes by name; regard's nodes are computed by PyTorch's operators."""
    found: dict[str, Tensor] = {}

    class Recorder(Interpreter):
        def run_node(self, node: Node) -> object:
            mine = next((ours[one.name] for one in (node, *node.users) if one.name in ours), None)
            if mine is not None and "onnx_symbolic" in str(node.target):
                (inputs, *_), _ = self.fetch_args_kwargs_from_env(node)
                results = compute(mine.op_type, attributes_of(mine), inputs)
                value: object = results if len(results) > 1 else results[0]
            else:
                value = super().run_node(node)
            if isinstance(value, Tensor) and value.is_floating_point() and node.op == "call_function":
                found[node.name] = value
            return value

    with torch.no_grad():
        Recorder(program.graph_module).run(*_inputs(program, x))
    return found


def _inputs(program: ExportedProgram, x: Tensor) -> Iterator[object]:
    """Yield the values of the graph's placeholders: weights, constants and the images."""
    stored = {**program.state_dict, **program.constants}
    for one in program.graph_signature.input_specs:
        yield stored[one.target] if one.target is not None else x


def _read(model: Proto, names: list[str], x: Tensor, kernels: str) -> list[Any]:
    """Run the file with these values as its outputs."""
    onnx = require("onnx", "export")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnx_session(changed.SerializeToString(), kernels=kernels, optimize=False)
    return session.run(names, {session.get_inputs()[0].name: x.numpy()})


def _differs(value: Tensor, expected: Tensor, tolerance: float) -> bool:
    if value.shape != expected.shape:
        return True
    scale = expected[expected.isfinite()].abs().max() if expected.isfinite().any() else torch.ones(())
    return not torch.allclose(value, expected, rtol=0.0, atol=float(tolerance * scale), equal_nan=True)


def _describe(node: Proto, name: str) -> str:
    scopes = next((one.value for one in node.metadata_props if one.key == KEPT), "")
    words = [word.strip(" '\"") for word in scopes.strip("[]").split(",")]
    module = words[-2] if len(words) > 1 else ""
    return f"{node.op_type} {name!r}" + (f" of module {module!r}" if module else "")
