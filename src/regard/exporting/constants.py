"""What a program computes from parameters alone, computed once, when it is written.

Runtimes do this when they load a file, but quantizers, which look for weights, come before. And runtimes disagree about
bicubic interpolation, which carries position embeddings over to another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
RESIZES = (ATEN._upsample_bicubic2d_aa.vec, ATEN.upsample_bicubic2d.vec)


def fold_parameters(program: ExportedProgram) -> ExportedProgram:
    """Replace what is computed from parameters alone by constants, unless they take more memory; changed in place."""
    graph = program.graph_module.graph
    stored = {**program.state_dict, **program.constants}
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    changed = set(program.graph_signature.buffers_to_mutate.values())
    parameters = {name: stored[target] for name, target in targets.items() if target not in (None, *changed)}
    values: dict[Node, Any] = {
        node: parameters[node.name] for node in graph.nodes if node.op == "placeholder" and node.name in parameters
    }
    for node in graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and all(one in values for one in node.all_input_nodes):
            value = _computed(node, values)
            source = node.all_input_nodes[0]
            if _is_same(value, values[source]):
                node.replace_all_uses_with(source)
            elif value is not None:
                values[node] = value
    graph.eliminate_dead_code()
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op == "call_function" and is_read and isinstance(value, Tensor):
            _store(program, node, value, targets)
    graph.eliminate_dead_code()
    _remove_unused(program)
    program.graph_module.recompile()
    return program


def _computed(node: Node, values: Mapping[Node, Any]) -> object:
    """Return the value of a node, or None if it is larger than its inputs and no resized embedding."""
    compute: Any = node.target
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    value = compute(*args, **kwargs)
    is_small = _bytes(value) <= sum(_bytes(values[one]) for one in node.all_input_nodes)
    return value if is_small or node.target in RESIZES else None


def _bytes(value: object) -> int:
    return sum(one.nbytes for one in tree_leaves(value) if isinstance(one, Tensor))


def _is_same(value: object, other: object) -> bool:
    """Whether a value is a view of everything, such as of a conversion to the dtype that there is."""
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return False
    places = [(one.data_ptr(), one.shape, one.stride(), one.dtype) for one in (value, other)]
    return places[0] == places[1]


def _store(program: ExportedProgram, node: Node, value: Tensor, targets: dict[str, str | None]) -> None:
    """Put a constant in the place of a node, named for the first parameter that it is computed from."""
    graph, specs = program.graph_module.graph, program.graph_signature.input_specs
    place = next(place for place, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT)
    first = [one for one in graph.nodes if one.op == "placeholder"][place]
    with graph.inserting_before(first):
        constant = graph.placeholder(f"c_{node.name}")
    origin = node
    while origin.op != "placeholder":
        origin = origin.all_input_nodes[0]
    taken = {spec.target for spec in specs}
    name = next(name for count in range(len(specs) + 1) if (name := f"{targets[origin.name]}_{count}") not in taken)
    constant.meta = {"val": node.meta["val"]}
    node.replace_all_uses_with(constant)
    targets[constant.name] = name
    program.constants[name] = value.detach().clone(memory_format=torch.contiguous_format)
    argument = TensorArgument(name=constant.name)
    specs.insert(place, InputSpec(InputKind.CONSTANT_TENSOR, argument, name, None))


def _remove_unused(program: ExportedProgram) -> None:
    """Remove the parameters that nothing reads any more."""
    specs = program.graph_signature.input_specs
    changed = set(program.graph_signature.buffers_to_mutate.values())
    nodes = {node.name: node for node in program.graph_module.graph.nodes if node.op == "placeholder"}
    for spec in list(specs):
        node = nodes[spec.arg.name]
        if spec.kind != InputKind.USER_INPUT and spec.target not in changed and not node.users:
            program.graph_module.graph.erase_node(node)
            specs.remove(spec)
    kept = {spec.target for spec in specs}
    for stored in (program.state_dict, program.constants):
        for name in [name for name in stored if name not in kept]:
            del stored[name]
