"""The mechanisms of attention: functions, modules, and the table that tests, benchmarks and the CLI read."""

from collections.abc import Callable
from typing import Any

import torch

from regard.attention import (
    additive,
    efficient_additive,
    neighborhood,
    separable,
    softmax,
    talking_heads,
    window,
)
from regard.attention._backend import Backend, BackendModule, set_backend
from regard.attention._flops import fvcore_handles
from regard.attention._mechanism import Mechanism, ModuleSample, Sample
from regard.attention._pooling import TokenNorm
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
    neighborhood_keys,
    neighborhood_weights,
)
from regard.attention.separable import SeparableAttention, separable_attention, separable_weights
from regard.attention.softmax import Attention, ClassAttention, softmax_attention, softmax_weights
from regard.attention.talking_heads import TalkingHeadsAttention, talking_heads_attention, talking_heads_weights
from regard.attention.window import (
    WindowAttention,
    window_attention,
    window_bias_index,
    window_tokens,
    window_weights,
)
from regard.native.loader import Native, native_library

MECHANISMS: tuple[Mechanism, ...] = (
    softmax.MECHANISM,
    talking_heads.MECHANISM,
    window.MECHANISM,
    neighborhood.MECHANISM,
    additive.MECHANISM,
    efficient_additive.MECHANISM,
    separable.MECHANISM,
)
"""All mechanisms, in the order of the docs."""


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Map every fused operator to its reference, for `ExportedProgram.run_decompositions`.

    Example:
        >>> layer = NeighborhoodAttention1d(8, num_heads=2, kernel_size=3)
        >>> program = torch.export.export(layer, (torch.randn(1, 9, 8),))
        >>> table = {**torch.export.default_decompositions(), **decompositions()}
        >>> "regard" in str(program.run_decompositions(table).graph)
        False
    """
    operators = [mechanism.operator for mechanism in MECHANISMS if mechanism.operator is not None]
    return {overload: body for operator in operators for overload, body in operator.decompositions().items()}


__all__ = [
    "MECHANISMS",
    "AdditiveAttention",
    "Attention",
    "Backend",
    "BackendModule",
    "ClassAttention",
    "EfficientAdditiveAttention",
    "Mechanism",
    "ModuleSample",
    "Native",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "Sample",
    "SeparableAttention",
    "TalkingHeadsAttention",
    "TokenNorm",
    "WindowAttention",
    "additive_attention",
    "additive_weights",
    "decompositions",
    "efficient_additive_attention",
    "efficient_additive_weights",
    "fvcore_handles",
    "native_library",
    "neighborhood_attention",
    "neighborhood_bias_index",
    "neighborhood_keys",
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
    "window_tokens",
    "window_weights",
]
