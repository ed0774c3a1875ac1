"""Window attention (Swin): every query sees the tokens of its window, shifted or not."""

from regard.attention._mechanism import Mechanism
from regard.attention.window.function import (
    unsupported_reasons,
    window_attention,
    window_bias_index,
    window_weights,
)
from regard.attention.window.module import WindowAttention
from regard.attention.window.samples import SAMPLES

MECHANISM = Mechanism(
    name="window",
    function=window_attention,
    weights=window_weights,
    unsupported_reasons=unsupported_reasons,
    modules=(WindowAttention,),
    samples=SAMPLES,
    origin="Swin",
    paper="2103.14030",
    summary="the tokens of its window, shifted or not, with relative bias",
)

__all__ = [
    "MECHANISM",
    "WindowAttention",
    "unsupported_reasons",
    "window_attention",
    "window_bias_index",
    "window_weights",
]
