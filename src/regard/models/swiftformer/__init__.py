"""SwiftFormer."""

from regard.models.swiftformer.model import SwiftFormer
from regard.models.swiftformer.variants import VARIANTS, SwiftFormerConfig

__all__ = ["VARIANTS", "SwiftFormer", "SwiftFormerConfig"]
