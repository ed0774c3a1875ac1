"""torchvision's `MLP`, which its transformers use."""

from __future__ import annotations

from torch import Tensor, nn

from regard.dense import dense, does_nothing, mlp
from regard.surgery.adapter import Adapter
from regard.surgery.inspection import Upstream
from regard.surgery.notes import DENSE


class MLP(Adapter):
    """Adapter of `MLP` with one hidden layer, as its transformers use it."""

    upstream_classes = ("torchvision.ops.misc.MLP", "torchvision.models.vision_transformer.MLPBlock")
    mechanism = DENSE
    required_attributes = ()

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Decline other numbers of layers, and layers with norms."""
        kinds = [type(layer) for layer in module.children()]
        expected = [nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout]
        return "" if kinds == expected else "it is not two dense layers with a GELU"

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        first, activation, first_drop, second, second_drop = self.children()
        if does_nothing(first_drop):
            return second_drop(mlp(first, second, x, activation=activation))
        return second_drop(dense(second, first_drop(dense(first, x, activation=activation))))
