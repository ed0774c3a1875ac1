"""NAT and DiNAT."""

from regard.models.nat.model import Nat
from regard.models.nat.variants import VARIANTS, NatConfig

__all__ = ["VARIANTS", "Nat", "NatConfig"]
