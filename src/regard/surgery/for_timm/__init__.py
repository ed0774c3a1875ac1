"""Adapters and folds for timm's classes, one file per family."""

from regard.surgery.for_timm import (
    beit,
    cait,
    conv,
    davit,
    mlp,
    mobilevitv2,
    swiftformer,
    swin,
    swin_v2,
    swin_v2_cr,
    vit,
)

__all__ = ["beit", "cait", "conv", "davit", "mlp", "mobilevitv2", "swiftformer", "swin", "swin_v2", "swin_v2_cr", "vit"]
