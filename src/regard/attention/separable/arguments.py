"""Check the arguments of separable attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from regard.attention import checks
from regard.attention.separable.op import OPERATOR
from regard.attention.separable.reference import Arguments
from regard.errors import ShapeError


def prepare(
    query: Tensor, key: Tensor, value: Tensor, *, patch_size: int | Sequence[int] = 1, dropout_p: float = 0.0
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `separable_attention`; return them, and why no kernel serves them."""
    checks.check_tensors({"query": query, "key": key, "value": value})
    checks.check_grid_tensor("key", key, (3, 4, 5), checks.TOKEN_LAYOUT)
    checks.check_probability("dropout_p", dropout_p)
    batch, *grid, channels = key.shape
    checks.check_shape("query", query, (batch, *grid, 1), "holds one score for every position of key")
    shared = (batch, *(None for _ in grid), channels)
    checks.check_shape("value", value, shared, "must have key's batch, number of grid axes and channels")
    patch = checks.per_axis("patch_size", patch_size, len(grid), minimum=1)
    for name, tensor in (("key", key), ("value", value)):
        if any(length % size for length, size in zip(tensor.shape[1:-1], patch, strict=True)):
            raise ShapeError(
                f"patch_size must divide the grid of {name} {tuple(tensor.shape[1:-1])}, got {patch_size}; resize the "
                "feature map to a multiple of it first, as MobileViTv2 does"
            )
    arguments = Arguments(query, key, value, patch, dropout_p)
    return arguments, OPERATOR.reasons(arguments)
