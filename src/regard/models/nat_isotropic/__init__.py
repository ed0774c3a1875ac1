"""The isotropic NAT and DiNAT, and ViT with relative positional biases."""

from regard.models.nat_isotropic.model import NatIsotropic
from regard.models.nat_isotropic.variants import VARIANTS, NatIsotropicConfig

__all__ = ["VARIANTS", "NatIsotropic", "NatIsotropicConfig"]
