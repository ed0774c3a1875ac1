"""Dense layers and convolutions in bfloat16, everything else in float32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Classes whose weights are stored in bfloat16."""

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names of instruction sets with bfloat16 products, as torch reports them; the last two are ARM's."""


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16. Others emulate it and are slower than in float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS)


class Bfloat16(nn.Module):
    """A model whose dense layers and convolutions compute in bfloat16.

    Weights of these layers are stored in bfloat16. Norms keep their float32 parameters. Norms, softmax and regard's
    kernels compute their statistics in float32. Outputs in bfloat16 are returned in float32.

    Args:
        model: in evaluation mode and float32. It stays as it is.

    Example:
        >>> Bfloat16(nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)).eval())(torch.randn(2, 8)).dtype
        torch.float32
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.train(model.training)
        for module in self.model.modules():
            if isinstance(module, LAYERS):
                module.to(torch.bfloat16)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Call the model."""
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.model(*args, **kwargs)
        return pytree.tree_map_only(Tensor, _widen, outputs)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
