"""Projections of BEiT and Swin V2, whose query and value have a bias and whose key has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.dense import dense
from regard.surgery.inference.affine import can_fold
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inspection import Sharing, Upstream
from regard.surgery.layouts import project_with_bias, split_qkv

SEPARATE_BIAS = ("q_bias", "k_bias", "v_bias", "qkv_bias_separate")


def project(attn: Upstream, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute query, key and value of `[..., C]`, each `[..., nh, hd]`."""
    if attn.q_bias is None:
        qkv = dense(attn.qkv, x)
    elif attn.qkv_bias_separate:
        qkv = dense(attn.qkv, x) + _bias(attn)
    else:
        qkv = project_with_bias(attn.qkv, x, _bias(attn))
    return split_qkv(qkv, attn.num_heads)


def _bias(attn: Upstream) -> Tensor:
    return torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))


class SeparateBiasFold(Fold):
    """Fold the separate biases into `qkv`; the upstream forward supports that too."""

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold all three biases or none."""
        qkv = module.qkv
        if module.q_bias is None or not can_fold(qkv, nn.Linear, sharing) or qkv.bias is not None:
            return module, []
        if any(id(bias) in sharing.names for bias in (module.q_bias, module.v_bias)):
            return module, []
        qkv.bias = nn.Parameter(_bias(module).detach(), requires_grad=qkv.weight.requires_grad)
        for name in ("q_bias", "k_bias", "v_bias"):
            setattr(module, name, None)
        return module, [("q_bias", "qkv"), ("v_bias", "qkv")]
