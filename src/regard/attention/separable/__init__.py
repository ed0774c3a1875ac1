"""Separable attention (MobileViTv2): every token sees one pooled key, apart for every position inside a patch."""

from regard.attention._mechanism import Mechanism
from regard.attention.separable.function import separable_attention, separable_weights, unsupported_reasons
from regard.attention.separable.module import SeparableAttention
from regard.attention.separable.samples import SAMPLES

MECHANISM = Mechanism(
    name="separable",
    function=separable_attention,
    weights=separable_weights,
    unsupported_reasons=unsupported_reasons,
    modules=(SeparableAttention,),
    samples=SAMPLES,
    origin="MobileViTv2",
    paper="2206.02680",
    summary="one pooled context vector, softmax over patches",
)

__all__ = [
    "MECHANISM",
    "SeparableAttention",
    "separable_attention",
    "separable_weights",
    "unsupported_reasons",
]
