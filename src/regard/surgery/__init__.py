"""Accelerate timm and transformers models: same weights, same outputs."""

from regard.surgery.fuse import fuse
from regard.surgery.report import Folded, FuseReport, Left, Packing, Replaced
from regard.surgery.timing import Times

__all__ = ["Folded", "FuseReport", "Left", "Packing", "Replaced", "Times", "fuse"]
