"""regard's operators as nodes of ONNX's domain "regard", for the library of operators in regard/native/onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from regard import attention
from regard.attention import decompositions
from regard.errors import UnsupportedError

Proto: TypeAlias = Any
"""A part of an ONNX model; onnx is not installed everywhere."""
DOMAIN, VERSION = "regard", 1
TOKEN_NORMS = ("softmax", "l2", "ones")
LISTS = ("_size", "dilation", "stride")
"""Endings of the attributes with a number for each axis of the grid; `is_causal` is the other one."""
OPERATORS: dict[str, dict[str, Any]] = {
    "NeighborhoodAttention": {"kernel_size": [0], "dilation": [0], "stride": [0], "is_causal": [0], "scale": 0.0},
    "WindowAttention": {"window_size": [0], "shift_size": [0], "scale": 0.0},
    "TalkingHeadsAttention": {"scale": 0.0},
    "AdditiveAttention": {"scale": 0.0},
    "EfficientAdditiveAttention": {"token_norm": 0, "scale": 0.0},
    "SeparableAttention": {"patch_size": [0]},
}
"""The names of the domain, with values of the types of their attributes; some have `packed`, too."""


def node_table() -> dict[Any, Callable[..., Any]]:
    """Map every operator to a function that puts a node in its place, for `run_decompositions`.

    Backward operators keep their references; no exported program has them.
    """
    operators = torch.ops.regard
    return {
        **decompositions(),
        operators.neighborhood_attention.default: _neighborhood,
        operators.window_attention.default: _window,
        operators.talking_heads_attention.default: _talking_heads,
        operators.additive_attention.default: _additive,
        operators.efficient_additive_attention.default: _efficient_additive,
        operators.separable_attention.default: _separable,
    }


def pack(graph: Proto) -> int:
    """Give nodes the projection whose slices are their query, key and value, so that it is not copied.

    Args:
        graph: an `onnx.GraphProto`, which is changed.

    Returns:
        The number of nodes that were changed.
    """
    makers = {output: node for node in graph.node for output in node.output}
    values = _constants(graph)
    count = 0
    for node in graph.node:
        packed = next((one for one in node.attribute if one.name == "packed"), None)
        if node.domain != DOMAIN or packed is None:
            continue
        slices = [_as_slice(makers, values, name) for name in node.input[:3]]
        source = _whole(slices)
        if source is not None:
            packed.i = 1
            node.input[0], node.input[1], node.input[2] = source, "", ""
            count += 1
    _remove_unused(graph)
    return count


def attributes_of(node: Proto) -> dict[str, Any]:
    """Return the attributes of an `onnx.NodeProto` of the domain."""
    return {one.name: one.ints if one.ints else one.f if one.type == 1 else one.i for one in node.attribute}


def compute(name: str, attributes: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Compute what a node of the domain stands for with regard's functions, which check their arguments.

    Args:
        name: of the operator.
        attributes: of the node, which is not packed.
        inputs: its values.
    """
    given: list[Any] = [*inputs, *[None] * (6 - len(inputs))]
    first, second, third, *others = given
    sizes = [[int(one) for one in attributes[key]] for key in OPERATORS[name] if key.endswith(LISTS)]
    scale = float(attributes.get("scale", 0))
    result: Tensor | tuple[Tensor, ...]
    if name == "NeighborhoodAttention":
        kernel, dilation, stride = sizes
        causal = [bool(flag) for flag in attributes["is_causal"]]
        options: dict[str, Any] = {"dilation": dilation, "stride": stride, "is_causal": causal}
        result = attention.neighborhood_attention(first, second, third, kernel, **options, bias=others[0], scale=scale)
    elif name == "WindowAttention":
        window, shift = sizes
        result = attention.window_attention(first, second, third, window, shift_size=shift, bias=others[0], scale=scale)
    elif name == "TalkingHeadsAttention":
        result = attention.talking_heads_attention(
            first, second, third, others[0], others[1], weights_bias=others[2], scale=scale
        )
    elif name == "AdditiveAttention":
        result = attention.additive_attention(first, second, third, others[0], scale=scale)
    elif name == "EfficientAdditiveAttention":
        norm: Any = TOKEN_NORMS[int(attributes["token_norm"])]
        result = attention.efficient_additive_attention(first, second, third, token_norm=norm, scale=scale)
    else:
        result = attention.separable_attention(first, second, third, patch_size=sizes[0])
    return result if isinstance(result, tuple) else (result,)


def _neighborhood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    attributes: dict[str, Any] = {
        "kernel_size": list(kernel_size),
        "dilation": list(dilation),
        "stride": list(stride),
        "is_causal": [int(flag) for flag in is_causal],
        "scale": scale,
        "packed": 0,
    }
    shape = (*query.shape[:-1], value.shape[-1])
    unread = query.new_zeros(query.shape[:-1])  # the statistics
    return _node("NeighborhoodAttention", (query, key, value, bias), attributes, shape), unread, unread


def _window(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: Sequence[int],
    shift_size: Sequence[int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    attributes: dict[str, Any] = {
        "window_size": list(window_size),
        "shift_size": list(shift_size),
        "scale": scale,
        "packed": 0,
    }
    return _node("WindowAttention", (query, key, value, bias), attributes, (*query.shape[:-1], value.shape[-1]))


def _talking_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """The softmax cancels the bias of the logits, so that the node has none."""
    tokens = [tensor.flatten(1, -3) for tensor in (query, key, value)]  # [B, N, nh, hd]
    shape = (*tokens[0].shape[:2], *tokens[2].shape[2:])
    out = _node("TalkingHeadsAttention", (*tokens, logits_mix, weights_mix, weights_bias), {"scale": scale}, shape)
    return out.unflatten(1, query.shape[1:-2])


def _additive(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """The softmax cancels the biases of the scores, so that the node has none."""
    return _node("AdditiveAttention", (query, key, query_weight, key_weight), {"scale": scale}, query.shape)


def _efficient_additive(
    query: Tensor, key: Tensor, weight: Tensor, token_norm: str, scale: float
) -> tuple[Tensor, Tensor]:
    attributes: dict[str, Any] = {"token_norm": TOKEN_NORMS.index(token_norm), "scale": scale}
    out, unit_query = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::EfficientAdditiveAttention",
        [query, key, weight],
        attributes,
        dtypes=[query.dtype] * 2,
        shapes=[query.shape] * 2,
        version=VERSION,
    )
    return out, unit_query


def _separable(query: Tensor, key: Tensor, value: Tensor, patch_size: Sequence[int]) -> Tensor:
    attributes = {"patch_size": list(patch_size), "packed": 0}
    return _node("SeparableAttention", (query, key, value), attributes, value.shape)


def _node(
    name: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], shape: Sequence[int | torch.SymInt]
) -> Tensor:
    query = inputs[0]
    assert query is not None
    if query.dtype != torch.float32:
        raise UnsupportedError(f"regard's operators of ONNX Runtime compute in float32, got {query.dtype}")
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", list(inputs), attributes, dtype=query.dtype, shape=list(shape), version=VERSION
    )


def _constants(graph: Proto) -> dict[str, list[int]]:
    """Return the small constants of whole numbers by name."""
    import onnx.numpy_helper as numpy_helper

    found = {one.name: one for one in graph.initializer}
    found |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    small = {name: one for name, one in found.items() if one.data_type == 7 and len(one.dims) <= 1}
    return {name: numpy_helper.to_array(one).reshape(-1).tolist() for name, one in small.items()}


def _as_slice(makers: dict[str, Any], values: dict[str, list[int]], name: str) -> tuple[str, int, int, int] | None:
    """Return the source, the axis, the first and the last element of a slice of one axis, perhaps squeezed."""
    node = makers.get(name)
    if node is not None and node.op_type == "Squeeze":
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Split":
        return _part(node, values, name)
    if node is None or node.op_type != "Slice":
        return None
    options = [values.get(each) for each in node.input[1:]]
    if len(options) < 3 or any(each is None or len(each) != 1 for each in options):
        return None
    (start,), (end,), (axis,) = options[:3]  # type: ignore[misc]
    step = options[3] if len(options) > 3 else [1]
    return (node.input[0], axis, start, end) if step == [1] else None


def _part(node: Proto, values: dict[str, list[int]], name: str) -> tuple[str, int, int, int] | None:
    """Return what `_as_slice` returns, for one output of a split."""
    sizes = values.get(node.input[1]) if len(node.input) > 1 else None
    if sizes is None:
        return None
    place = list(node.output).index(name)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    start = sum(sizes[:place])
    return node.input[0], axis, start, start + sizes[place]


def _whole(slices: Sequence[tuple[str, int, int, int] | None]) -> str | None:
    """Return the source of which the slices are all parts in order, or None."""
    if any(one is None for one in slices):
        return None
    (source, axis, start, middle), *others = slices  # type: ignore[misc]
    for other, other_axis, begin, end in others:  # type: ignore[misc]
        if (other, other_axis, begin) != (source, axis, middle):
            return None
        middle = end
    return source if start == 0 else None


def _remove_unused(graph: Proto) -> None:
    """Remove the nodes whose outputs nothing reads."""
    results = {one.name for one in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | results
        unused: Iterable[Any] = [node for node in graph.node if not read & set(node.output)]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)
