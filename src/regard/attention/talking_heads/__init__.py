"""Talking-heads attention (CaiT): heads are mixed before and after the softmax."""

from regard.attention._mechanism import Mechanism
from regard.attention.talking_heads.arguments import prepare
from regard.attention.talking_heads.function import (
    talking_heads_attention,
    talking_heads_weights,
)
from regard.attention.talking_heads.module import TalkingHeadsAttention
from regard.attention.talking_heads.op import OPERATOR
from regard.attention.talking_heads.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="talking_heads",
    function=talking_heads_attention,
    weights=talking_heads_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
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
]
