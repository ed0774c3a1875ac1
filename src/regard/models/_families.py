"""The families, every model by name, and every naming."""

from __future__ import annotations

from typing import Any

from regard.checkpoint import OWN
from regard.models._backbone import Backbone
from regard.models._variant import Variant
from regard.models.cait import Cait
from regard.models.dinat_s import DinatS
from regard.models.mobilevitv2 import MobileVitV2
from regard.models.nat import Nat
from regard.models.nat_isotropic import NatIsotropic
from regard.models.swiftformer import SwiftFormer
from regard.models.swin import Swin
from regard.models.vit import Vit

FAMILIES: tuple[type[Backbone[Any]], ...] = (SwiftFormer, MobileVitV2, Nat, DinatS, NatIsotropic, Swin, Vit, Cait)

MODELS: dict[str, Variant[Any]] = {name: variant for family in FAMILIES for name, variant in family.variants.items()}
"""Every variant by name."""

NAMINGS: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            *(
                naming.name
                for family in FAMILIES
                for variant in family.variants.values()
                for naming in family.name_tensors(variant.config)
            ),
            OWN.name,
        )
    )
)
"""The names of all namings, regard's last."""


def family_of(name: str) -> type[Backbone[Any]]:
    """Return the class of a model."""
    return next(family for family in FAMILIES if name in family.variants)
