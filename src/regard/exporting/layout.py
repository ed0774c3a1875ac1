"""Dense layers between convolutions as 1 x 1 convolutions, so that other runtimes need no transpositions around them.

regard's models hold features as `[B, H, W, C]` wherever layers work on channels, which is fast in PyTorch. Runtimes
hold images as `[B, C, H, W]` and pay for every change. A transposition to `[B, H, W, C]` moves behind the layers that
can do without it, until it meets the one back, and both are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node

ATEN = torch.ops.aten
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
UNARY = (ATEN.gelu.default, ATEN.silu.default, ATEN.relu.default, ATEN.sigmoid.default, ATEN.dropout.default)
BINARY = (ATEN.add.Tensor, ATEN.mul.Tensor)


def channels_first(program: ExportedProgram) -> ExportedProgram:
    """Move transpositions of a program behind its dense layers and remove those that cancel; changed in place."""
    graph = program.graph_module.graph
    before_transposition = _before_transposition(graph)
    for node in list(graph.nodes):  # in the order of the computation
        if node in before_transposition:
            _move(graph, node, MOVABLE[node.target])
        elif _is_permutation(node, TO_FIRST) and _is_permutation(node.args[0], TO_LAST):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _before_transposition(graph: Graph) -> set[Node]:
    """Return the nodes whose outputs are transposed back wherever they go, at once or behind other such nodes."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        is_transposed = all(user in found or _is_permutation(user, TO_FIRST) for user in node.users)
        if node.target in MOVABLE and node.users and is_transposed:
            found.add(node)
    return found


def _move(graph: Graph, node: Node, build: Callable[[Graph, Node], Node | None]) -> None:
    """Replace a node on `[B, H, W, C]` by a transposition of what `build` returns on `[B, C, H, W]`."""
    with graph.inserting_before(node):
        made = build(graph, node)
        if made is None:
            return
        made.meta["val"] = node.meta["val"].permute(TO_FIRST)
        made.meta.update({key: value for key, value in node.meta.items() if key != "val"})
        back = graph.call_function(ATEN.permute.default, (made, TO_LAST))
        back.meta = dict(node.meta)
    node.replace_all_uses_with(back)


def _as_convolution(graph: Graph, node: Node) -> Node | None:
    x, weight, *bias = node.args
    if not _is_permutation(x, TO_LAST):
        return None
    kernel = _unsqueezed(graph, weight, (-1, -1))
    return graph.call_function(ATEN.conv2d.default, (x.args[0], kernel, *bias))  # type: ignore[union-attr]


def _on_source(graph: Graph, node: Node) -> Node | None:
    x, *others = node.args
    if not _is_permutation(x, TO_LAST):
        return None
    return graph.call_function(node.target, (x.args[0], *others), node.kwargs)  # type: ignore[arg-type, union-attr]


def _on_sources(graph: Graph, node: Node) -> Node | None:
    """Both operands are transposed; or one is, and the other one can be."""
    if node.kwargs or not any(_is_permutation(one, TO_LAST) for one in node.args):
        return None
    operands: list[Any] = []
    for one in node.args:
        if _is_permutation(one, TO_LAST):
            operands.append(one.args[0])  # type: ignore[union-attr]
        elif not isinstance(one, Node) or not isinstance(one.meta["val"], Tensor):
            operands.append(one)
        elif one.meta["val"].ndim == 1:
            operands.append(_unsqueezed(graph, one, (-1, -1)))
        elif node.target == ATEN.add.Tensor and one.meta["val"].shape == node.meta["val"].shape:  # a residual stays
            operands.append(graph.call_function(ATEN.permute.default, (one, TO_FIRST)))
            operands[-1].meta["val"] = one.meta["val"].permute(TO_FIRST)
        else:
            return None
    return graph.call_function(node.target, tuple(operands))  # type: ignore[arg-type]


def _unsqueezed(graph: Graph, node: Any, dims: Sequence[int]) -> Node:  # noqa: ANN401
    """Add axes to a parameter."""
    for dim in dims:
        value = node.meta["val"].unsqueeze(dim)
        node = graph.call_function(ATEN.unsqueeze.default, (node, dim))
        node.meta["val"] = value
    return node


def _is_permutation(node: object, order: list[int]) -> bool:
    return isinstance(node, Node) and node.target == ATEN.permute.default and list(node.args[1]) == order  # type: ignore[arg-type]


MOVABLE: dict[Any, Callable[[Graph, Node], Node | None]] = {
    ATEN.linear.default: _as_convolution,
    **dict.fromkeys(UNARY, _on_source),
    **dict.fromkeys(BINARY, _on_sources),
}
"""The operators that can do without a transposition to `[B, H, W, C]`, and what they become."""
