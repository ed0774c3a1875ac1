"""Folding a layer scale into the dense layer before it."""

from __future__ import annotations

from torch import Tensor, nn

from regard.surgery.adapter import Adapter
from regard.surgery.inference.affine import can_fold, scale_output
from regard.surgery.inspection import Sharing, obstacle


def absorbing_layer(block: nn.Module, name: str, sharing: Sharing) -> str:
    """Return the path of the dense layer that computes the output of a block's part.

    Empty if the part runs on no adapter, or if its layers must not change.
    """
    part = block.get_submodule(name)
    if not isinstance(part, Adapter) or not part.last_layer or obstacle(part, "timm", sharing):
        return ""
    last = f"{name}.{part.last_layer}"
    return last if can_fold(block.get_submodule(last), nn.Linear, sharing) else ""


def fold_scale(block: nn.Module, path: str, factor: Tensor) -> None:
    """Fold the factors of a layer scale into the dense layer at `path`, in place."""
    layer = block.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    scale_output(layer, factor)
