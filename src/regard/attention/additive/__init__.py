"""Additive attention (Fastformer): every query sees two pooled context vectors."""

from regard.attention._mechanism import Mechanism
from regard.attention.additive.function import additive_attention, additive_weights, unsupported_reasons
from regard.attention.additive.module import AdditiveAttention
from regard.attention.additive.samples import SAMPLES

MECHANISM = Mechanism(
    name="additive",
    function=additive_attention,
    weights=additive_weights,
    unsupported_reasons=unsupported_reasons,
    modules=(AdditiveAttention,),
    samples=SAMPLES,
    origin="Fastformer",
    paper="2108.09084",
    summary="two pooled context vectors",
)

__all__ = [
    "MECHANISM",
    "AdditiveAttention",
    "additive_attention",
    "additive_weights",
    "unsupported_reasons",
]
