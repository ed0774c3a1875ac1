"""Layers on oneDNN, for inference on a CPU.

PyTorch's `linear` calls MKL. Its oneDNN computes the same product in up to a third less time for the small matrices of
vision networks, and applies an activation or adds a residual before the result leaves the cache. Weights packed for
oneDNN beforehand save up to a fifth more, in products and convolutions. The operators are private and have no
gradient. Calls that record gradients, run hooks, or are traced, counted or transformed take PyTorch's own path.
"""

from regard.onednn.even import EvenLinear
from regard.onednn.hooks import call_obstacle, has_hooks
from regard.onednn.linear import Activation, dense
from regard.onednn.packed import PackedConv2d, PackedLinear
from regard.onednn.packing import Packed
from regard.onednn.support import is_intercepted

__all__ = [
    "Activation",
    "EvenLinear",
    "Packed",
    "PackedConv2d",
    "PackedLinear",
    "call_obstacle",
    "dense",
    "has_hooks",
    "is_intercepted",
]
