"""Separable attention (MobileViTv2): every token sees one pooled key, apart for every position inside a patch."""

from regard.attention._mechanism import Mechanism
from regard.attention.separable.arguments import prepare
from regard.attention.separable.function import separable_attention, separable_weights
from regard.attention.separable.module import SeparableAttention
from regard.attention.separable.op import OPERATOR
from regard.attention.separable.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="separable",
    function=separable_attention,
    weights=separable_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
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
]
