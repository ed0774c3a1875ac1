"""Dense layers as other runtimes run them best: a projection for each part, and scales within the weights.

regard projects queries, keys and values by one dense layer, whose output the kernels read in place. Runtimes copy each
slice before they use it, whereas slices of weights are constants, and so are products of weights.
"""

from __future__ import annotations

from math import prod
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, Node

ATEN = torch.ops.aten
RESHAPES = (ATEN.view.default, ATEN.reshape.default, ATEN.unflatten.int)
SPLITS = (ATEN.unbind.int, ATEN.split_with_sizes.default)


class Part(NamedTuple):
    """A part of a packed projection: the node, and its rows of the weights."""

    node: Node
    start: int
    end: int


def split_projections(program: ExportedProgram) -> ExportedProgram:
    """Give every part of a packed projection a dense layer of its own; changed in place."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        linear = _packed(node)
        if linear is not None:
            for part in _parts(node, linear):
                _project(graph, linear, part)
    return _cleaned(program)


def fold_scales(program: ExportedProgram) -> ExportedProgram:
    """Multiply the weights of dense layers with the parameters that scale their outputs; changed in place."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target != ATEN.mul.Tensor:
            continue
        linear, scale = node.args
        is_scaled = _is(linear, ATEN.linear.default) and len(linear.users) == 1
        if not is_scaled or getattr(scale, "op", "") != "placeholder" or scale.meta["val"].ndim != 1:
            continue
        if scale.meta["val"].dtype != linear.meta["val"].dtype:
            continue
        x, weight, *bias = linear.args
        with graph.inserting_before(node):
            column = _call(graph, ATEN.unsqueeze.default, (scale, -1), scale.meta["val"].unsqueeze(-1))
            weights = [_call(graph, ATEN.mul.Tensor, (weight, column), weight.meta["val"])]
            weights += [_call(graph, ATEN.mul.Tensor, (one, scale), one.meta["val"]) for one in bias if one is not None]
            scaled = _call(graph, ATEN.linear.default, (x, *weights), node.meta["val"], linear.meta)
        node.replace_all_uses_with(scaled)
    return _cleaned(program)


def _packed(node: Node) -> Node | None:
    """Return the dense layer whose output a node splits: `linear`, a view as `[..., parts, *others]`, and a split."""
    if node.target not in SPLITS:
        return None
    shaped: Any = node.args[0]
    if not _is(shaped, *RESHAPES) or not _is(shaped.args[0], ATEN.linear.default):
        return None
    last = 1 if node.target == ATEN.unbind.int else 2  # the place of `dim`
    linear, dim = shaped.args[0], int(node.args[last]) if len(node.args) > last else 0  # type: ignore[arg-type]
    outer = linear.meta["val"].ndim - 1  # the axes that the view keeps
    shape = shaped.meta["val"].shape
    is_first = dim % len(shape) == outer and shape[:outer] == linear.meta["val"].shape[:-1]
    return linear if is_first and len(shaped.users) == len(linear.users) == 1 else None


def _parts(node: Node, linear: Node) -> list[Part]:
    shape = node.args[0].meta["val"].shape[linear.meta["val"].ndim - 1 :]  # type: ignore[union-attr]
    sizes: Any = [1] * shape[0] if node.target == ATEN.unbind.int else node.args[1]
    ends = [sum(sizes[: place + 1]) * prod(shape[1:]) for place in range(len(sizes))]
    starts = [0, *ends]
    places = {user: int(user.args[1]) for user in node.users if user.target == getitem}  # type: ignore[arg-type]
    return [Part(user, starts[place], ends[place]) for user, place in places.items()]


def _project(graph: Graph, linear: Node, part: Part) -> None:
    """Replace a part by a dense layer of its rows."""
    x, *weights = linear.args
    rows, value = slice(part.start, part.end), linear.meta["val"]
    with graph.inserting_before(linear):
        own = [
            _call(graph, ATEN.slice.Tensor, (one, 0, part.start, part.end), one.meta["val"][rows])  # type: ignore[union-attr]
            for one in weights
            if one is not None
        ]
        projected = _call(graph, ATEN.linear.default, (x, *own), value[..., rows], linear.meta)
        shape = list(part.node.meta["val"].shape[value.ndim - 1 :])
        shaped = _call(graph, ATEN.unflatten.int, (projected, -1, shape), part.node.meta["val"], part.node.meta)
    part.node.replace_all_uses_with(shaped)


def _call(
    graph: Graph, target: OpOverload, args: tuple[Any, ...], value: Tensor, meta: dict[str, Any] | None = None
) -> Node:
    made = graph.call_function(target, args)
    made.meta = {**(meta or {}), "val": value}
    return made


def _is(node: object, *targets: object) -> bool:
    return isinstance(node, Node) and node.target in targets


def _cleaned(program: ExportedProgram) -> ExportedProgram:
    program.graph_module.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program
