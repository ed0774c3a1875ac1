"""A second copy of a layer's weight, in a kernel's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Packed(nn.Module):
    """Base class of layers for inference that keep a second copy of their weight in a kernel's layout.

    State dict and parameters are those of the ordinary layer. The first call makes the copy, for its input's sizes.
    Later calls make a new one if the weight has changed. A change through `weight.data` goes unnoticed.
    """

    weight: Tensor
    is_constant = False
    """Whether a compiler that traces the layer may take the copy as a constant."""

    @classmethod
    def accepts(cls, layer: nn.Module) -> bool:
        """Whether a layer of the ordinary class may become one of this class."""
        del layer
        return True

    def packed(self, pack: Callable[[Tensor], Tensor], layout: str = "") -> Tensor:
        """Return the weight in the layout that `pack` computes; another `layout` makes another copy."""
        if self.weight.is_inference():  # such tensors have no version counter
            return self.weight
        state = (self.weight.data_ptr(), self.weight._version, layout)
        if vars(self).get("_packed_from") != state:
            self._packed = pack(self.weight.detach())
            self._packed_from = state
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the copy, whose layout is specific to this machine."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_packed")}


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """Let a compiler that traces `model` in this context take packed weights as constants. They must be up to date."""
    packed = [layer for layer in model.modules() if isinstance(layer, Packed)]
    layers = [layer for layer in packed if any(name.startswith("_packed") for name in vars(layer))]
    for layer in layers:
        layer.is_constant = True
    try:
        yield
    finally:
        for layer in layers:
            del layer.is_constant
