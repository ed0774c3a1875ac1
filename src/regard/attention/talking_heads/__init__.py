"""Talking-heads attention (CaiT): heads are mixed before and after the softmax."""

from regard.attention._mechanism import Mechanism
from regard.attention.talking_heads.function import (
    talking_heads_attention,
    talking_heads_weights,
    unsupported_reasons,
)
from regard.attention.talking_heads.module import TalkingHeadsAttention
from regard.attention.talking_heads.samples import SAMPLES

MECHANISM = Mechanism(
    name="talking_heads",
    function=talking_heads_attention,
    weights=talking_heads_weights,
    unsupported_reasons=unsupported_reasons,
    modules=(TalkingHeadsAttention,),
    samples=SAMPLES,
    origin="CaiT",
    paper="2003.02436",
    summary="every token, heads mixed before and after the softmax",
)

__all__ = [
    "MECHANISM",
    "TalkingHeadsAttention",
    "talking_heads_attention",
    "talking_heads_weights",
    "unsupported_reasons",
]
