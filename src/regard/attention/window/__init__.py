"""Window attention (Swin): every query sees the tokens of its window, shifted or not."""

from regard.attention._mechanism import Mechanism
from regard.attention.window.arguments import prepare
from regard.attention.window.function import window_attention, window_bias_index, window_tokens, window_weights
from regard.attention.window.module import WindowAttention
from regard.attention.window.op import OPERATOR
from regard.attention.window.samples import MODULES, SAMPLES

MECHANISM = Mechanism(
    name="window",
    function=window_attention,
    weights=window_weights,
    prepare=prepare,
    operator=OPERATOR,
    module_samples=MODULES,
    samples=SAMPLES,
    origin="Swin",
    paper="2103.14030",
    summary="the tokens of its window, shifted or not, with relative bias",
)

__all__ = ["MECHANISM", "WindowAttention", "window_attention", "window_bias_index", "window_tokens", "window_weights"]
