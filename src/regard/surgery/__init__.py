"""Accelerate timm, torchvision and transformers models: same weights, same outputs."""

from regard.surgery.fuse import fuse
from regard.surgery.report import Folded, FuseReport, Left, Replaced

__all__ = ["Folded", "FuseReport", "Left", "Replaced", "fuse"]
