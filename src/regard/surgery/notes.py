"""Sentences of the report that several adapters use."""

from __future__ import annotations

from torch import nn

DENSE = "dense layers with their activation"
"""The mechanism of adapters that are not attention."""


def dropout_note(dropout: nn.Module) -> str:
    """Return that training will run the upstream forward if an attention dropout has a probability; else nothing."""
    p = getattr(dropout, "p", 0.0)
    return f"with attention dropout {p}, training runs as before" if p else ""
