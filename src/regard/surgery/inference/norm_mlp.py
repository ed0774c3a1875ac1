"""Computing an MLP together with the norm before it and the residual around it."""

from __future__ import annotations

from torch import Tensor, nn

from regard.dense import does_nothing, mlp
from regard.surgery.adapter import Adapter
from regard.surgery.inference.affine import can_fold, scale_input
from regard.surgery.inspection import Sharing, Upstream, obstacle


def absorb_norm(block: Upstream, sharing: Sharing) -> bool:
    """Fold the parameters of `block.norm2` into the first layer of `block.mlp`, in place.

    Returns:
        Whether that was possible, and `add_mlp` may compute this half of the block.
    """
    norm, part = block.norm2, block.mlp
    if (
        not isinstance(norm, nn.LayerNorm)
        or type(norm).__name__ not in ("LayerNorm", "LayerNormFp32")
        or not (norm.elementwise_affine and norm.bias is not None and len(norm.normalized_shape) == 1)
        or sharing.reason(norm)
        or not isinstance(part, Adapter)
        or part.last_layer != "fc2"
        or not all(does_nothing(part.get_submodule(name)) for name in ("drop1", "norm", "drop2"))
        or any(obstacle(one, "timm", sharing) for one in (norm, part))
        or not all(can_fold(part.get_submodule(name), nn.Linear, sharing) for name in ("fc1", "fc2"))
    ):
        return False
    first = part.get_submodule("fc1")
    assert isinstance(first, nn.Linear)
    scale_input(first, norm.weight.double(), norm.bias.double())
    block.norm2 = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    return True


def add_mlp(block: Upstream, x: Tensor) -> Tensor:
    """Compute `x + mlp(norm2(x))` of a block whose norm was absorbed."""
    part: Upstream = block.mlp
    return mlp(part.fc1, part.fc2, x, activation=part.act, norm=block.norm2, residual=x)
