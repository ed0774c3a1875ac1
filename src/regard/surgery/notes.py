"""Sentences of the report that several adapters use."""

from __future__ import annotations

from torch import Tensor

DENSE = "dense layers with their activation"
"""The mechanism of adapters that are not attention."""

HIDING_SCALE = 30.0
"""Cosines times at most this factor, with a bias of at most 16: -100 hides a key beyond float32's precision.

A visible logit is at least -30, a hidden one at most 30 + 16 - 100. Between them are 24, and exp(-24) is 4e-11, so even
a thousand hidden keys add less than a rounding.
"""


def dropout_note(dropout: object) -> str:
    """Return that training will run the upstream forward if attention dropout has a probability; else nothing.

    Args:
        dropout: a module, or the probability itself.
    """
    p = dropout if isinstance(dropout, float) else getattr(dropout, "p", 0.0)
    return f"with attention dropout {p}, training runs as before" if p else ""


def mask_note(logit_scale: Tensor, shift_size: tuple[int, ...]) -> str:
    """Return that regard hides keys which Swin V2's mask of -100 may not hide; nothing if both hide them.

    Args:
        logit_scale: the logarithm of the heads' factors.
        shift_size: per axis; a window that is not shifted has no hidden keys.
    """
    if not any(shift_size) or logit_scale.is_meta or float(logit_scale.detach().max().exp()) <= HIDING_SCALE:
        return ""
    return "tokens from the opposite border weigh exactly 0, where the original subtracts 100 from large logits"
