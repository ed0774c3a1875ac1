"""Check the arguments of additive attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from torch import Tensor

from regard.attention import checks
from regard.attention.additive.op import OPERATOR
from regard.attention.additive.reference import Arguments


def prepare(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    *,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `additive_attention`; return them, and why no kernel serves them."""
    projections = {"query_weight": query_weight, "key_weight": key_weight}
    biases = {"query_bias": query_bias, "key_bias": key_bias}
    checks.check_tensors({"query": query, "key": key, **projections, **biases})
    checks.check_grid_tensor("query", query, (4, 5, 6), checks.LAYOUT)
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    heads, channels = query.shape[-2:]
    for name, weight in projections.items():
        checks.check_shape(name, weight, (heads, heads * channels), "is [nh, nh * hd]")
    for name, bias in biases.items():
        if bias is not None:
            checks.check_shape(name, bias, (heads,), "is [nh]")
    scale = checks.scale_of(query, scale)
    arguments = Arguments(query, key, query_weight, key_weight, query_bias, key_bias, scale)
    return arguments, OPERATOR.reasons(arguments)
