"""The memory layout for inference: channels-last images, weights packed for oneDNN."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from regard.onednn import Packed, PackedConv2d, PackedLinear
from regard.surgery.inspection import walk_unblocked

PACKED: dict[type[nn.Module], type[Packed]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}


def pack_layers(model: nn.Module, blocked: Collection[str] = ()) -> None:
    """Make a model's convolutions expect channels-last images, and pack its dense layers and convolutions, in place.

    Args:
        model: for inference; only float32 weights on the CPU are packed.
        blocked: paths whose modules keep their classes.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:  # `model.to` would also try those of 3-D convolutions, and fail
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    for _, module in walk_unblocked(model, blocked):
        layer: nn.Module = module
        packed = PACKED.get(type(layer))
        if packed and _is_packable(layer.weight):
            layer.__class__ = packed


def _is_packable(weight: object) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"
