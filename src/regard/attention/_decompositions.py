"""What exporters see of the fused operators: their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from regard.attention.additive.reference import additive_attention
from regard.attention.efficient_additive import op as efficient_additive
from regard.attention.neighborhood import op as neighborhood
from regard.attention.separable import op as separable
from regard.attention.talking_heads import op as talking_heads
from regard.attention.window import op as window


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Map every fused operator to its reference, for `ExportedProgram.run_decompositions`.

    Example:
        >>> from regard.attention import NeighborhoodAttention1d
        >>> layer = NeighborhoodAttention1d(8, num_heads=2, kernel_size=3)
        >>> program = torch.export.export(layer, (torch.randn(1, 9, 8),))
        >>> table = {**torch.export.default_decompositions(), **decompositions()}
        >>> "regard" in str(program.run_decompositions(table).graph)
        False
    """
    return {
        torch.ops.regard.additive_attention.default: additive_attention,
        torch.ops.regard.efficient_additive_attention.default: efficient_additive.decompose,
        torch.ops.regard.separable_attention.default: separable.decompose,
        torch.ops.regard.neighborhood_attention.default: neighborhood.decompose,
        torch.ops.regard.talking_heads_attention.default: talking_heads.decompose,
        torch.ops.regard.window_attention.default: window.decompose,
    }
