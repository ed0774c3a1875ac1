"""One call of oneDNN for a dense layer, with a GELU or a residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.dense.packing import Packed
from regard.dense.support import is_intercepted, is_plain_tensor, supports

# A call costs about 25 microseconds more than PyTorch's own: it pays from these numbers of multiplications on.
MIN_PRODUCTS_PLAIN = 16 << 20
MIN_PRODUCTS = 4 << 20  # if it also saves a pass over the result, or the weight is packed


def product(layer: nn.Linear, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor | None:
    """Compute `layer(x)`, then a GELU or a sum with `residual`, in one call of oneDNN.

    Returns:
        The result, or None if oneDNN does not support the call or PyTorch's own path takes less time.
    """
    if not isinstance(x, Tensor) or is_intercepted():
        return None
    plain = not isinstance(layer, Packed) and not gelu and residual is None
    if x.numel() * layer.out_features < (MIN_PRODUCTS_PLAIN if plain else MIN_PRODUCTS):
        return None
    weight, bias = layer.weight, layer.bias
    if (
        not supports(layer, x, weight, bias)
        or x.ndim < 2
        or weight.shape != (layer.out_features, x.shape[-1])
        or not (residual is None or (is_plain_tensor(residual) and residual.shape == (*x.shape[:-1], len(weight))))
    ):
        return None
    x = x.contiguous()
    packed = weight
    if isinstance(layer, Packed):
        tokens = x.numel() // x.shape[-1]
        packed = layer.packed(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, tokens))
    operator = torch.ops.mkldnn._linear_pointwise
    out: Tensor
    if residual is not None:
        out = operator.binary(x, residual.contiguous(), packed, bias, "add")
    else:
        out = operator(x, packed, bias, "gelu" if gelu else "none", [], "none")
    return out
