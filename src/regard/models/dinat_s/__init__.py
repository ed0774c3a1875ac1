"""DiNAT_s: Swin's skeleton with dilated neighborhood attention."""

from regard.models.dinat_s.model import DinatS
from regard.models.dinat_s.variants import VARIANTS, DinatSConfig

__all__ = ["VARIANTS", "DinatS", "DinatSConfig"]
