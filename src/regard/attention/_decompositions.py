"""What exporters see of the fused operators: their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from regard.attention.neighborhood import op as neighborhood


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
    return {torch.ops.regard.neighborhood_attention.default: neighborhood.decompose}
