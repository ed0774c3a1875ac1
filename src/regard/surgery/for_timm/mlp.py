"""timm's `Mlp`, which all of its transformers use."""

from __future__ import annotations

from torch import Tensor

from regard.dense import dense, does_nothing, mlp
from regard.surgery.adapter import Adapter
from regard.surgery.notes import DENSE


class Mlp(Adapter):
    """Adapter of `Mlp`."""

    upstream_classes = ("timm.layers.mlp.Mlp",)
    mechanism = DENSE
    required_attributes = ("fc1", "act", "drop1", "norm", "fc2", "drop2")
    last_layer = "fc2"

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        if does_nothing(self.drop1) and does_nothing(self.norm):
            return self.drop2(mlp(self.fc1, self.fc2, x, activation=self.act))
        x = self.norm(self.drop1(dense(self.fc1, x, activation=self.act)))
        return self.drop2(dense(self.fc2, x))
