"""Blocks without attention, which the models share."""

from regard.layers.blocks import Blocks
from regard.layers.drop_path import DropPath, drop_path_rates
from regard.layers.layer_scale import LayerScale
from regard.layers.mlp import Mlp
from regard.layers.patches import PatchEmbed, PatchMerging
from regard.layers.position import PositionEmbedding, interpolate_bias, interpolate_position, sincos_position
from regard.layers.transformer import Stage, TransformerBlock

__all__ = [
    "Blocks",
    "DropPath",
    "LayerScale",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "PositionEmbedding",
    "Stage",
    "TransformerBlock",
    "drop_path_rates",
    "interpolate_bias",
    "interpolate_position",
    "sincos_position",
]
