"""Dense layers and convolutions for inference on a CPU, on regard's own kernel and on oneDNN.

An ordinary layer runs as it does in PyTorch. oneDNN on weights that were packed for it beforehand takes up to a third
less time on some processors and more on others, and applies an activation or adds a residual before the result leaves
the cache: `fuse` measures, and packs the layers that gain. regard's kernel computes a whole MLP on a tile
of tokens that stays in the cache, with the layer normalization before it and the residual after it. These operators
have no gradient. Calls that record gradients, run hooks, or are traced, counted or transformed take PyTorch's own path.
"""

from regard.dense.depthwise import DepthwiseConv2d, depthwise_block
from regard.dense.even import EvenLinear
from regard.dense.hooks import call_obstacle, does_nothing, has_hooks
from regard.dense.linear import Activation, convolve, dense, mlp
from regard.dense.packed import PackedConv2d, PackedLinear
from regard.dense.packing import Packed, constant_weights
from regard.dense.panels import PanelConv2d, PanelLinear
from regard.dense.support import is_intercepted

__all__ = [
    "Activation",
    "DepthwiseConv2d",
    "EvenLinear",
    "Packed",
    "PackedConv2d",
    "PackedLinear",
    "PanelConv2d",
    "PanelLinear",
    "call_obstacle",
    "constant_weights",
    "convolve",
    "dense",
    "depthwise_block",
    "does_nothing",
    "has_hooks",
    "is_intercepted",
    "mlp",
]
