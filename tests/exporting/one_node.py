"""ONNX models of one node of the domain "regard", and the nodes that stand for calls of the mechanisms."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from torch import Tensor

from regard.exporting import operators_library
from regard.exporting.nodes import TOKEN_NORMS

NAMES = {
    "neighborhood": "NeighborhoodAttention",
    "window": "WindowAttention",
    "talking_heads": "TalkingHeadsAttention",
    "additive": "AdditiveAttention",
    "efficient_additive": "EfficientAdditiveAttention",
    "separable": "SeparableAttention",
}
ATTRIBUTES = ("kernel_size", "dilation", "stride", "is_causal", "window_size", "shift_size", "patch_size", "scale")
NOT_TENSORS = (*ATTRIBUTES, "token_norm", "dropout_p", "logits_bias", "query_bias", "key_bias")  # the softmax cancels


@dataclass
class Node:
    """A node with its inputs, of which absent ones are None."""

    name: str
    inputs: list[np.ndarray | None]
    attributes: dict = field(default_factory=dict)
    outputs: int = 1

    def model(self) -> bytes:
        """Return a model whose shapes are all dynamic, so that only the operator checks them."""
        names = [f"in{place}" if one is not None else "" for place, one in enumerate(self.inputs)]
        outputs = [f"out{place}" for place in range(self.outputs)]
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), [None] * one.ndim)
            for name, one in zip(names, self.inputs, strict=True)
            if one is not None
        ]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        node = helper.make_node(self.name, names, outputs, domain="regard", **self.attributes)
        graph = helper.make_graph([node], "one_node", given, results)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("regard", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"in{place}": one for place, one in enumerate(self.inputs) if one is not None}

    def run(self, threads: int = 1, library: str | None = None) -> list[np.ndarray]:
        return session(self.model(), threads, library).run(None, self.feeds())


def session(model: bytes, threads: int = 1, library: str | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library or str(operators_library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def node_of(mechanism, arguments) -> Node:
    """Return the node of a mechanism's checked arguments."""
    values = arguments._asdict()
    tensors = [value for name, value in values.items() if name not in NOT_TENSORS]
    if mechanism == "talking_heads":
        tensors[:3] = [tensor.flatten(1, -3) for tensor in tensors[:3]]
    attributes = {name: value for name, value in values.items() if name in ATTRIBUTES}
    if "is_causal" in attributes:
        attributes["is_causal"] = [int(flag) for flag in attributes["is_causal"]]
    if "token_norm" in values:
        attributes["token_norm"] = TOKEN_NORMS.index(values["token_norm"])
    if mechanism in ("neighborhood", "window", "separable"):
        attributes["packed"] = 0
    inputs = [None if one is None else one.numpy() for one in tensors]
    return Node(NAMES[mechanism], inputs, attributes, 2 if mechanism == "efficient_additive" else 1)


def packed(node: Node) -> Node:
    """Return the node that takes query, key and value as one tensor."""
    query, key, value, *others = node.inputs
    if node.name == "SeparableAttention":
        one = np.concatenate([query, key, value], -1)
    else:
        one = np.stack([query, key, value], -3)
    return Node(node.name, [one, None, None, *others], {**node.attributes, "packed": 1}, node.outputs)


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.contiguous().numpy() for tensor in tensors]


def check_model(node: Node) -> None:
    """Check that the model is ONNX's, whatever its node."""
    onnx.checker.check_model(node.model())
