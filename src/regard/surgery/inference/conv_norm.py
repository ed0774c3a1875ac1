"""Folding a batch norm into the convolution before it."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from torch import nn

from regard.surgery.inference.affine import can_fold, norm_affine, scale_output
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inspection import Sharing, Upstream


class ConvNormFold(Fold):
    """Base class of the folds of modules whose forward runs a convolution and then directly a batch norm.

    Attributes:
        convolution: name of the convolution.
        norm: name of the batch norm.
    """

    convolution: ClassVar[str]
    norm: ClassVar[str]

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold the batch norm."""
        done = fold_norm(module, cls.convolution, cls.norm, sharing)
        return module, [(cls.norm, cls.convolution)] if done else []


class SequentialFold(Fold):
    """Fold every batch norm that follows a convolution in an `nn.Sequential`."""

    upstream_classes = ("torch.nn.modules.container.Sequential",)

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold the batch norms."""
        pairs = pairwise(list(module._modules))
        return module, [(norm, conv) for conv, norm in pairs if fold_norm(module, conv, norm, sharing)]


def fold_norm(module: nn.Module, convolution: str, norm: str, sharing: Sharing) -> bool:
    """Fold one batch norm into a convolution, in place, and return whether that was possible.

    An activation or a dropout that is a part of the batch norm, as in timm's, stays in its place.
    """
    layer, batch_norm = getattr(module, convolution), getattr(module, norm)
    affine = norm_affine(batch_norm, sharing)
    if affine is None or not can_fold(layer, nn.Conv2d, sharing):
        return False
    scale_output(layer, *affine)
    rest = [child for child in batch_norm.children() if not isinstance(child, nn.Identity)]
    setattr(module, norm, nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity())
    return True
