"""Choosing the backend of a whole network."""

from __future__ import annotations

from torch import nn

from regard.attention._mechanism import Backend, choose_backend


def set_backend(model: nn.Module, backend: Backend) -> None:
    """Set the backend of every attention module in `model`.

    Args:
        model: any module; those in it that have a `backend` are regard's attention modules.
        backend: None takes fused kernels where they can serve, else the reference; "fused" or "reference" insist.

    Raises:
        OptionError: another word.

    Example:
        >>> from regard.attention import NeighborhoodAttention1d
        >>> model = nn.Sequential(NeighborhoodAttention1d(8, num_heads=2, kernel_size=3))
        >>> set_backend(model, "reference")
        >>> model[0].backend
        'reference'
    """
    choose_backend(backend, ())  # checks the word
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]
