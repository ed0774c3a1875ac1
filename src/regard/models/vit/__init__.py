"""ViT and DeiT."""

from regard.models.vit.model import Vit
from regard.models.vit.variants import VARIANTS, VitConfig

__all__ = ["VARIANTS", "Vit", "VitConfig"]
