"""CaiT."""

from regard.models.cait.model import Cait
from regard.models.cait.variants import VARIANTS, CaitConfig

__all__ = ["VARIANTS", "Cait", "CaitConfig"]
