"""Blocks without attention, which the models share."""

from regard.layers.blocks import Blocks
from regard.layers.drop_path import DropPath, drop_path_rates
from regard.layers.layer_scale import LayerScale
from regard.layers.mlp import Mlp
from regard.layers.position import PositionEmbedding, interpolate_position, sincos_position

__all__ = [
    "Blocks",
    "DropPath",
    "LayerScale",
    "Mlp",
    "PositionEmbedding",
    "drop_path_rates",
    "interpolate_position",
    "sincos_position",
]
