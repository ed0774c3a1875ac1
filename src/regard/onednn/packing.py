"""A second copy of a layer's weight, in oneDNN's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Packed(nn.Module):
    """Base class of layers for inference that keep a second copy of their weight in oneDNN's layout.

    State dict and parameters are those of the ordinary layer. The first call makes the copy, for its input's sizes.
    Later calls make a new one if the weight has changed. A change through `weight.data` goes unnoticed.
    """

    weight: Tensor

    def packed(self, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weight in oneDNN's layout, which `pack` computes."""
        if self.weight.is_inference():  # such tensors have no version counter
            return self.weight
        state = (self.weight.data_ptr(), self.weight._version)
        if vars(self).get("_packed_from") != state:
            self._packed = pack(self.weight.detach())
            self._packed_from = state
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the copy, whose layout is specific to this machine."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_packed")}
