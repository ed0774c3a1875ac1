"""Tables of everything that `fuse` knows: the adapters, and the folds of `inference=True`.

Upstream classes are recognized by their names, so regard imports neither timm nor transformers.
"""

from __future__ import annotations

from torch import nn

from regard.surgery import for_timm, for_transformers
from regard.surgery.adapter import Adapter
from regard.surgery.inference.conv_norm import SequentialFold
from regard.surgery.inference.fold import Fold
from regard.surgery.inspection import find_base

ADAPTERS: tuple[type[Adapter], ...] = (
    for_timm.vit.Attention,
    for_timm.cait.TalkingHeadAttn,
    for_timm.cait.ClassAttn,
    for_timm.swin.SwinTransformerBlock,
    for_timm.swiftformer.EfficientAdditiveAttention,
    for_timm.mobilevitv2.LinearSelfAttention,
    for_timm.mlp.Mlp,
    for_transformers.vit.ViTAttention,
    for_transformers.swin.SwinLayer,
    for_transformers.swiftformer.SwiftFormerEfficientAdditiveAttention,
    for_transformers.mobilevitv2.MobileViTV2LinearSelfAttention,
    for_transformers.dinat.NeighborhoodAttention,
    for_transformers.mlp.ViTMLP,
)

FOLDS: tuple[type[Fold], ...] = (
    SequentialFold,
    for_timm.conv.ConvNormActFold,
    for_timm.vit.BlockFold,
    for_timm.cait.LayerScaleBlockFold,
    for_timm.cait.LayerScaleBlockClassAttnFold,
    for_timm.swiftformer.EmbeddingFold,
    for_timm.swiftformer.ConvEncoderFold,  # before BlockFold, since a Block contains a LocalRepresentation
    for_timm.swiftformer.BlockFold,
    for_timm.swiftformer.SwiftFormerFold,
    for_timm.mobilevitv2.BlockFold,
    for_transformers.mobilevitv2.MobileViTV2ConvLayerFold,
    for_transformers.swiftformer.SwiftFormerEmbeddingsFold,
    for_transformers.swiftformer.SwiftFormerConvEncoderFold,
    for_transformers.swiftformer.SwiftFormerEncoderBlockFold,
)
"""In the order in which they are applied: blocks inside other blocks first."""


def find_adapter(kind: type[nn.Module]) -> tuple[type[Adapter], type[nn.Module]] | None:
    """Find the adapter for a class, and the class or base that it supports; None if there is no adapter."""
    for adapter in ADAPTERS:
        base = find_base(kind, adapter.upstream_classes)
        if base is not None:
            return adapter, base
    return None
