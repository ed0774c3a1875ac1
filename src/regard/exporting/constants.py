"""Resized parameters as constants: runtimes disagree about bicubic interpolation, and would repeat it in every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node
from torch.fx.node import map_arg

ATEN = torch.ops.aten
RESIZES = (ATEN._upsample_bicubic2d_aa.vec, ATEN.upsample_bicubic2d.vec)


def fold_resized(program: ExportedProgram) -> ExportedProgram:
    """Resize parameters now, with what other parameters add to them, as far as sizes are fixed; changed in place."""
    graph = program.graph_module.graph
    stored = {**program.state_dict, **program.constants}
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    parameters = {name: stored[target] for name, target in targets.items() if target is not None}
    folded: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if node.target in RESIZES or any(one in folded for one in node.all_input_nodes):
            value = _value(node, parameters)
            if isinstance(value, Tensor):
                folded[node] = value
    for node, value in folded.items():
        if any(user not in folded for user in node.users):
            _store(program, node, value)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _value(node: Node, parameters: Mapping[str, Tensor]) -> object:
    """Return what a node computes from parameters alone, and None if it needs anything else."""
    if node.op != "call_function":
        return parameters.get(node.name)
    values: Any = {one: _value(one, parameters) for one in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    compute: Any = node.target
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    return compute(*args, **kwargs)


def _store(program: ExportedProgram, node: Node, value: Tensor) -> None:
    """Put a constant in the place of a node."""
    graph, specs = program.graph_module.graph, program.graph_signature.input_specs
    place = next(place for place, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT)
    first = [one for one in graph.nodes if one.op == "placeholder"][place]
    with graph.inserting_before(first):
        constant = graph.placeholder(f"c_{node.name}")
    constant.meta = {"val": node.meta["val"]}
    node.replace_all_uses_with(constant)
    program.constants[constant.name] = value.detach()
    argument = TensorArgument(name=constant.name)
    specs.insert(place, InputSpec(InputKind.CONSTANT_TENSOR, argument, constant.name, None))
