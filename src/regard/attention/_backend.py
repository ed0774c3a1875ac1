"""The backend of a module, and of a whole network."""

from __future__ import annotations

from torch import nn

from regard.attention._mechanism import Backend, choose_backend


class BackendModule(nn.Module):
    """Base class of the modules that compute attention: they have a backend, which `set_backend` changes."""

    backend: Backend = None


def set_backend(model: nn.Module, backend: Backend) -> None:
    """Set the backend of every attention module in `model`.

    Args:
        model: any module; every `BackendModule` in it is set: regard's own and those that `fuse` serves.
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
        if isinstance(module, BackendModule):
            module.backend = backend
