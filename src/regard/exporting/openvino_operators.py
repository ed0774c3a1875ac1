"""regard's operators in OpenVINO's Python runtime: each is a class of nodes that calls the kernels.

OpenVINO loads operators written in C++ only if they were compiled with the headers of its own version, so a wheel
cannot ship them. Operators written in Python do not have this restriction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch

from regard.exporting.nodes import DOMAIN, OPERATORS, compute
from regard.extras import require


@cache
def openvino_operators() -> tuple[type, ...]:
    """Return the classes of regard's operators, for `openvino.Core.add_extension`.

    A model that was exported with `kernels="regard"` as OpenVINO needs them where it is read; `Opened` adds them.

    Raises:
        MissingDependencyError: `pip install 'regard[export]'`.

    Example:
        >>> [operator.__name__ for operator in openvino_operators()][:2]
        ['NeighborhoodAttention', 'WindowAttention']
    """
    return tuple(_class(name, attributes) for name, attributes in OPERATORS.items())


def conversions() -> list[Any]:
    """Return what `openvino.convert_model` needs to convert the ONNX nodes of the domain."""
    frontend = require("openvino.frontend.onnx", "export")
    return [
        frontend.ConversionExtension(operator.__name__, DOMAIN, partial(_convert, operator))
        for operator in openvino_operators()
    ]


def _convert(operator: type, node: Any) -> list[Any]:  # noqa: ANN401  # OpenVINO's node of another framework
    attributes = {name: node.get_attribute(name) for name in OPERATORS[operator.__name__]}
    inputs = [node.get_input(place) for place in range(node.get_input_size())]
    return list(operator(inputs, attributes).outputs())


def _class(name: str, attributes: dict[str, Any]) -> type:
    openvino: Any = require("openvino", "export")

    class Operator(openvino.Op):  # type: ignore[misc]
        def __init__(self, inputs: Sequence[Any] | None = None, given: dict[str, Any] | None = None) -> None:
            super().__init__(self)
            self.attributes = dict(given or attributes)  # a reader of files sets them through `visit_attributes`
            if inputs is not None:
                self.set_arguments(list(inputs))
                self.constructor_validate_and_infer_types()

        def validate_and_infer_types(self) -> None:
            """Give the outputs the shape of the query with the value's heads and channels, or that of the value."""
            shape = list(self.get_input_partial_shape(0))
            if name == "SeparableAttention":
                shape = list(self.get_input_partial_shape(2))
            elif name not in ("AdditiveAttention", "EfficientAdditiveAttention"):
                shape[-2:] = list(self.get_input_partial_shape(2))[-2:]
            for place in range(2 if name == "EfficientAdditiveAttention" else 1):
                self.set_output_type(place, self.get_input_element_type(0), openvino.PartialShape(shape))

        def clone_with_new_inputs(self, inputs: Sequence[Any]) -> Operator:
            return Operator(inputs, self.attributes)

        def visit_attributes(self, visitor: Any) -> bool:  # noqa: ANN401  # OpenVINO's
            visitor.on_attributes(self.attributes)
            return True

        def has_evaluate(self) -> bool:
            return True

        def evaluate(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> bool:
            """Compute on the memory of the runtime's tensors."""
            with torch.no_grad():
                result = compute(name, self.attributes, [torch.from_numpy(one.data) for one in inputs])
            for output, tensor in zip(outputs, result, strict=True):
                output.shape = list(tensor.shape)
                output.data[...] = tensor.numpy()
            return True

    Operator.__name__ = Operator.__qualname__ = name
    return Operator
