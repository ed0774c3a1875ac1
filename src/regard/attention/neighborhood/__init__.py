"""Neighborhood attention (NAT, DiNAT, GNA): every query sees its K nearest tokens per axis."""

from regard.attention._mechanism import Mechanism
from regard.attention.neighborhood.arguments import prepare
from regard.attention.neighborhood.function import (
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_keys,
    neighborhood_weights,
)
from regard.attention.neighborhood.module import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
)
from regard.attention.neighborhood.op import OPERATOR
from regard.attention.neighborhood.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="neighborhood",
    function=neighborhood_attention,
    weights=neighborhood_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
    samples=SAMPLES,
    origin="NAT, DiNAT, GNA",
    paper="2204.07143",
    summary="its K nearest tokens per axis, in 1-D, 2-D, 3-D",
)

__all__ = [
    "MECHANISM",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "neighborhood_attention",
    "neighborhood_bias_index",
    "neighborhood_keys",
    "neighborhood_weights",
]
