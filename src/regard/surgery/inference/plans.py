"""Plans for inference: which layers are folded, the memory layout of images, weights packed for oneDNN."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from regard.dense import DepthwiseConv2d, Packed, PackedConv2d, PackedLinear, PanelConv2d, PanelLinear
from regard.surgery import rules
from regard.surgery.inference.fold import Fold
from regard.surgery.inspection import walk_unblocked
from regard.surgery.measure import Choice


@dataclass(frozen=True)
class Plan:
    """One way of preparing a model for inference.

    Attributes:
        name: for the report and the calibration.
        folds: applied in turn.
        memory_format: of the convolutions' weights, and so of the images; None keeps it.
        packed: classes of layers that may be packed, with what they become: the first class that accepts the layer.
        is_joint: whether all layers are packed, because several of them become one call. Otherwise each is measured.
    """

    name: str
    folds: tuple[type[Fold], ...]
    memory_format: torch.memory_format | None
    packed: Mapping[type[nn.Module], tuple[type[Packed], ...]]
    is_joint: bool = False


PLANS = (
    Plan(
        "original layout",
        tuple(fold for fold in rules.FOLDS if not fold.is_channels_last),
        None,
        {nn.Linear: (PackedLinear,)},
    ),
    Plan("channels-last", rules.FOLDS, torch.channels_last, {nn.Linear: (PackedLinear,), nn.Conv2d: (PackedConv2d,)}),
    Plan(
        "panels",
        rules.FOLDS,
        torch.channels_last,
        {nn.Linear: (PanelLinear,), nn.Conv2d: (PanelConv2d, DepthwiseConv2d, PackedConv2d)},
        is_joint=True,
    ),
)
"""From the smallest change to the largest."""


def packable(
    model: nn.Module, packed: Mapping[type[nn.Module], tuple[type[Packed], ...]], blocked: Collection[str] = ()
) -> list[Choice]:
    """List the layers whose weights can be packed.

    Args:
        model: for inference; only float32 weights on the CPU are packed.
        is_joint: whether all layers are packed, because several of them become one call. Otherwise each is measured.
        packed: classes of layers, with what they become.
        blocked: paths whose modules keep their classes.
    """
    return [
        Choice(path, module, type(module), ours, _kind(ours, module))
        for path, module in walk_unblocked(model, blocked)
        if type(module) in packed and _is_packable(module.weight)
        for ours in itertools.islice((one for one in packed[type(module)] if one.accepts(module)), 1)
    ]


def _kind(ours: type[Packed], layer: nn.Module) -> str:
    """Return what the calibration calls the packing of a layer."""
    if ours is not PackedConv2d or not isinstance(layer, nn.Conv2d):
        return ours.__name__
    if layer.groups > 1:
        return "PackedConv2d, groups"
    return "PackedConv2d, 1x1" if layer.kernel_size == (1, 1) else "PackedConv2d"


def _is_packable(weight: object) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"
