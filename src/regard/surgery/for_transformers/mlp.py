"""The MLPs of transformers' ViT, DeiT, Swin and BEiT, which are copies of one another."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from regard.dense import has_hooks, mlp
from regard.surgery.adapter import Adapter
from regard.surgery.inspection import Upstream
from regard.surgery.notes import DENSE


class ViTMLP(Adapter):
    """Adapter of `ViTMLP`, `DeiTMLP`, `SwinMLP` and `BeitMLP`."""

    upstream_classes = (
        "transformers.models.vit.modeling_vit.ViTMLP",
        "transformers.models.deit.modeling_deit.DeiTMLP",
        "transformers.models.swin.modeling_swin.SwinMLP",
        "transformers.models.beit.modeling_beit.BeitMLP",
    )
    mechanism = DENSE
    required_attributes = ("fc1", "activation_fn", "fc2")

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform every token of `[..., C]`."""
        activation: Upstream = self.activation_fn
        exact = type(activation).__name__ == "GELUActivation" and activation.act is F.gelu
        known = F.gelu if exact and not has_hooks(activation) else activation
        return mlp(self.fc1, self.fc2, hidden_states, activation=known)
