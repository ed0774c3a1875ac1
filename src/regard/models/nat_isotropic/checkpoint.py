"""Upstream naming of the isotropic networks, which is regard's."""

from __future__ import annotations

from torch import Tensor, nn

from regard.attention import NeighborhoodAttention2d, window_bias_index
from regard.checkpoint import Naming
from regard.models.nat_isotropic.variants import NatIsotropicConfig


def name_tensors(config: NatIsotropicConfig) -> tuple[Naming, ...]:
    """Return the authors' naming; no other library has this family."""
    derived = _indices if config.sees_all else None
    return (Naming("official", derived=derived, ignored=r"\.relative_position_index$"),)


def _indices(model: nn.Module) -> dict[str, Tensor]:
    """Return the indices into the bias tables of networks with full attention, key minus query."""
    return {
        f"{name}.relative_position_index": window_bias_index(module.kernel_size)
        for name, module in model.named_modules()
        if isinstance(module, NeighborhoodAttention2d)
    }
