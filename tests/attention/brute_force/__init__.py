"""A second implementation of every mechanism, written from its paper in plain loops, without importing regard."""

from .additive import additive
from .efficient_additive import efficient_additive
from .neighborhood import neighborhood
from .separable import separable
from .softmax import softmax
from .talking_heads import talking_heads
from .window import window

BRUTE_FORCE = {
    "softmax": softmax,
    "talking_heads": talking_heads,
    "window": window,
    "neighborhood": neighborhood,
    "additive": additive,
    "efficient_additive": efficient_additive,
    "separable": separable,
}
