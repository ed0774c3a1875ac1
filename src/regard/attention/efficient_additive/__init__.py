"""Efficient additive attention (SwiftFormer): every token sees one pooled query."""

from regard.attention._mechanism import Mechanism
from regard.attention.efficient_additive.arguments import prepare
from regard.attention.efficient_additive.function import (
    efficient_additive_attention,
    efficient_additive_weights,
)
from regard.attention.efficient_additive.module import EfficientAdditiveAttention
from regard.attention.efficient_additive.op import OPERATOR
from regard.attention.efficient_additive.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="efficient_additive",
    function=efficient_additive_attention,
    weights=efficient_additive_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
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
]
