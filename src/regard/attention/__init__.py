"""The mechanisms of attention: functions, modules, and the table that tests, benchmarks and the CLI read."""

from regard.attention import neighborhood
from regard.attention._mechanism import Backend, Mechanism, Sample
from regard.attention.neighborhood import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_weights,
)

MECHANISMS: tuple[Mechanism, ...] = (neighborhood.MECHANISM,)

__all__ = [
    "MECHANISMS",
    "Backend",
    "Mechanism",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "Sample",
    "neighborhood_attention",
    "neighborhood_bias_index",
    "neighborhood_weights",
]
