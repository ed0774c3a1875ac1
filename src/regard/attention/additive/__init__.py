"""Additive attention (Fastformer): every query sees two pooled context vectors."""

from regard.attention._mechanism import Mechanism
from regard.attention.additive.arguments import prepare
from regard.attention.additive.function import additive_attention, additive_weights
from regard.attention.additive.module import AdditiveAttention
from regard.attention.additive.op import OPERATOR
from regard.attention.additive.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="additive",
    function=additive_attention,
    weights=additive_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
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
]
