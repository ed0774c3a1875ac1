"""MobileViTv2."""

from regard.models.mobilevitv2.model import MobileVitV2
from regard.models.mobilevitv2.variants import VARIANTS, MobileVitV2Config

__all__ = ["VARIANTS", "MobileVitV2", "MobileVitV2Config"]
