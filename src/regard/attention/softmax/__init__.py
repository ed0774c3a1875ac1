"""Softmax attention (Transformer, ViT; CaiT's class attention): every query sees every key."""

from regard.attention._mechanism import Mechanism
from regard.attention.softmax.arguments import prepare
from regard.attention.softmax.function import softmax_attention, softmax_weights
from regard.attention.softmax.module import Attention, ClassAttention
from regard.attention.softmax.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="softmax",
    function=softmax_attention,
    weights=softmax_weights,
    prepare=prepare,
    operator=None,
    module_samples=MODULES,
    samples=SAMPLES,
    origin="Transformer, ViT, CaiT",
    paper="1706.03762",
    summary="every token; optional bias and relative positions",
)

__all__ = [
    "MECHANISM",
    "Attention",
    "ClassAttention",
    "softmax_attention",
    "softmax_weights",
]
