"""Upstream naming of CaiT, which the authors and timm share."""

from __future__ import annotations

from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.cait.variants import CaitConfig

LAYER_SCALE: tuple[Rewrite, ...] = ((r"\.ls([12])\.gamma$", r".gamma_\1"),)


def name_tensors(config: CaitConfig) -> tuple[Naming, ...]:
    """Return the authors' naming and timm's; transformers has no CaiT."""
    return (Naming("official", LAYER_SCALE), Naming("timm", LAYER_SCALE))
