"""Adapters and folds for timm's classes, one file per family."""

from regard.surgery.for_timm import cait, conv, mlp, mobilevitv2, swiftformer, swin, vit

__all__ = ["cait", "conv", "mlp", "mobilevitv2", "swiftformer", "swin", "vit"]
