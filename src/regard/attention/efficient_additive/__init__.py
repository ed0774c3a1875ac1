"""Efficient additive attention (SwiftFormer): every token sees one pooled query."""

from regard.attention._mechanism import Mechanism
from regard.attention.efficient_additive.function import (
    efficient_additive_attention,
    efficient_additive_weights,
    unsupported_reasons,
)
from regard.attention.efficient_additive.module import EfficientAdditiveAttention
from regard.attention.efficient_additive.samples import SAMPLES

MECHANISM = Mechanism(
    name="efficient_additive",
    function=efficient_additive_attention,
    weights=efficient_additive_weights,
    unsupported_reasons=unsupported_reasons,
    modules=(EfficientAdditiveAttention,),
    samples=SAMPLES,
    origin="SwiftFormer",
    paper="2303.15446",
    summary="one pooled context vector, learned query weights",
)

__all__ = [
    "MECHANISM",
    "EfficientAdditiveAttention",
    "efficient_additive_attention",
    "efficient_additive_weights",
    "unsupported_reasons",
]
