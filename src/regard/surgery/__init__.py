"""Models of others, made faster: the same weights, the same outputs, our attention."""

from regard.surgery.fuse import fuse
from regard.surgery.report import Folded, FuseReport, Left, Replaced

__all__ = ["Folded", "FuseReport", "Left", "Replaced", "fuse"]
