"""Check the arguments of efficient additive attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from torch import Tensor

from regard.attention import checks
from regard.attention._pooling import TokenNorm
from regard.attention.efficient_additive.op import OPERATOR
from regard.attention.efficient_additive.reference import Arguments


def prepare(
    query: Tensor, key: Tensor, weight: Tensor, *, token_norm: TokenNorm = "l2", scale: float | None = None
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `efficient_additive_attention`; return them, and why no kernel serves them."""
    checks.check_tensors({"query": query, "key": key, "weight": weight})
    checks.check_grid_tensor("query", query, (3, 4, 5), checks.TOKEN_LAYOUT)
    checks.check_shape("key", key, query.shape, "must equal query's shape")
    checks.check_shape("weight", weight, query.shape[-1:], "is [C]")
    checks.check_word("token_norm", token_norm, ("softmax", "l2", "ones"))
    arguments = Arguments(query, key, weight, token_norm, checks.scale_of(query, scale))
    return arguments, OPERATOR.reasons(arguments)
