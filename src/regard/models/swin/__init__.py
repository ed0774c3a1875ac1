"""Swin Transformer."""

from regard.models.swin.model import Swin
from regard.models.swin.variants import VARIANTS, SwinConfig

__all__ = ["VARIANTS", "Swin", "SwinConfig"]
