"""Accelerate timm, torchvision and transformers models: same weights, same outputs."""

from regard.surgery.adapt import adapt
from regard.surgery.freeze import freeze
from regard.surgery.freezing.frozen import Frozen
from regard.surgery.freezing.report import Candidate, FreezeReport
from regard.surgery.fuse import fuse
from regard.surgery.report import Folded, FuseReport, Left, Packing, Replaced
from regard.surgery.timing import Times

__all__ = [
    "Candidate",
    "Folded",
    "FreezeReport",
    "Frozen",
    "FuseReport",
    "Left",
    "Packing",
    "Replaced",
    "Times",
    "adapt",
    "freeze",
    "fuse",
]
