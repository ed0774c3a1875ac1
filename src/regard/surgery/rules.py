"""Tables of everything that `fuse` knows: the adapters, and the folds of `inference=True`.

Upstream classes are recognized by their names, so regard imports neither timm nor torchvision nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from regard.surgery import for_timm, for_torchvision, for_transformers
from regard.surgery.adapter import Adapter
from regard.surgery.inference.conv_norm import SequentialFold
from regard.surgery.inference.fold import Fold
from regard.surgery.inspection import class_name

ADAPTERS: tuple[type[Adapter], ...] = (
    for_timm.vit.Attention,
    for_timm.cait.TalkingHeadAttn,
    for_timm.cait.ClassAttn,
    for_timm.swin.SwinTransformerBlock,
    for_timm.swin_v2.SwinTransformerV2Block,
    for_timm.swin_v2_cr.SwinTransformerV2CrBlock,
    for_timm.beit.Attention,
    for_timm.davit.SpatialBlock,
    for_timm.swiftformer.EfficientAdditiveAttention,
    for_timm.mobilevitv2.LinearSelfAttention,
    for_timm.mlp.Mlp,
    for_torchvision.swin.ShiftedWindowAttention,
    for_torchvision.swin.ShiftedWindowAttentionV2,
    for_torchvision.video_swin.ShiftedWindowAttention3d,
    for_torchvision.mlp.MLP,
    for_transformers.vit.ViTAttention,
    for_transformers.beit.BeitAttention,
    for_transformers.qwen.Qwen2_5_VLVisionAttention,
    for_transformers.swin.SwinLayer,
    for_transformers.swiftformer.SwiftFormerEfficientAdditiveAttention,
    for_transformers.mobilevitv2.MobileViTV2LinearSelfAttention,
    for_transformers.dinat.NeighborhoodAttention,
    for_transformers.mlp.ViTMLP,
)

FOLDS: tuple[type[Fold], ...] = (
    SequentialFold,
    for_timm.conv.ConvNormActFold,
    for_timm.conv.BottleneckFold,
    for_timm.vit.BlockFold,
    for_timm.beit.AttentionFold,
    for_timm.beit.BlockFold,
    for_timm.swin_v2.WindowAttentionFold,
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


CHANNELS = "it attends from channels to channels, which no mechanism of regard does"
OTHER_MECHANISMS: Mapping[str, str] = {
    "timm.models.davit.ChannelAttention": CHANNELS,
    "timm.models.davit.ChannelAttentionV2": CHANNELS,
    "timm.models.edgenext.CrossCovarianceAttn": CHANNELS,
    "timm.models.xcit.XCA": CHANNELS,
    "timm.models.efficientvit_mit.LiteMLA": "it is linear attention, which no mechanism of regard computes",
}
"""Classes of attention that no adapter could support, with the reason."""

GATES = ("timm.layers.cbam", "timm.layers.coord_attn", "timm.layers.selective_kernel", "timm.layers.split_attn")
"""Modules of Python whose classes are named attention, but only weight channels or positions."""

PROJECTION = re.compile(r"(?:to_)?(qkv|qk|qv|kv|q|k|v|query|key|value)s?(?:_(?:proj|lin|conv|gate))?")
"""Names of the layers that compute queries, keys and values."""
ROLES: Mapping[str, str] = {"query": "q", "key": "k", "value": "v"}


def find_adapter(kind: type[nn.Module]) -> tuple[type[Adapter], type[nn.Module]] | None:
    """Find the adapter for a class, and the class or base that it supports; None if there is no adapter."""
    for base in kind.__mro__:  # from the class itself on, since upstream classes derive from one another
        for adapter in ADAPTERS:
            if class_name(base) in adapter.upstream_classes:
                return adapter, base
    return None


def is_attention(module: nn.Module) -> bool:
    """Whether a class outside regard looks like attention: it is named so, or has projections to query, key and value.

    Squeeze-and-excitation and other gates are not attention.
    """
    kind = type(module)
    if kind.__module__.partition(".")[0] == "regard" or kind.__module__ in GATES:
        return False
    if "Attention" in kind.__name__ or "Attn" in kind.__name__:
        return any(True for _ in module.parameters())
    parts = (*module.named_children(), *module.named_parameters(recurse=False))
    matches = (PROJECTION.fullmatch(name) for name, _ in parts)
    roles = "".join(ROLES.get(match[1], match[1]) for match in matches if match)
    return set("qkv") <= set(roles)
