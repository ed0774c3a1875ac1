"""The mechanisms of attention: functions, modules, and the table that tests, benchmarks and the CLI read."""

from regard.attention import (
    additive,
    efficient_additive,
    neighborhood,
    separable,
    softmax,
    talking_heads,
    window,
)
from regard.attention._backend import BackendModule, set_backend
from regard.attention._decompositions import decompositions
from regard.attention._mechanism import Backend, Mechanism, Sample
from regard.attention.additive import AdditiveAttention, additive_attention, additive_weights
from regard.attention.efficient_additive import (
    EfficientAdditiveAttention,
    efficient_additive_attention,
    efficient_additive_weights,
)
from regard.attention.neighborhood import (
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_weights,
)
from regard.attention.separable import SeparableAttention, separable_attention, separable_weights
from regard.attention.softmax import Attention, ClassAttention, softmax_attention, softmax_weights
from regard.attention.talking_heads import TalkingHeadsAttention, talking_heads_attention, talking_heads_weights
from regard.attention.window import WindowAttention, window_attention, window_bias_index, window_weights

MECHANISMS: tuple[Mechanism, ...] = (
    softmax.MECHANISM,
    talking_heads.MECHANISM,
    window.MECHANISM,
    neighborhood.MECHANISM,
    additive.MECHANISM,
    efficient_additive.MECHANISM,
    separable.MECHANISM,
)

__all__ = [
    "MECHANISMS",
    "AdditiveAttention",
    "Attention",
    "Backend",
    "BackendModule",
    "ClassAttention",
    "EfficientAdditiveAttention",
    "Mechanism",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "Sample",
    "SeparableAttention",
    "TalkingHeadsAttention",
    "WindowAttention",
    "additive_attention",
    "additive_weights",
    "decompositions",
    "efficient_additive_attention",
    "efficient_additive_weights",
    "neighborhood_attention",
    "neighborhood_bias_index",
    "neighborhood_weights",
    "separable_attention",
    "separable_weights",
    "set_backend",
    "softmax_attention",
    "softmax_weights",
    "talking_heads_attention",
    "talking_heads_weights",
    "window_attention",
    "window_bias_index",
    "window_weights",
]
