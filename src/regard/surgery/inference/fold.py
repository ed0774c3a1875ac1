"""Folding layers into one another, for inference: exact up to rounding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import nn

from regard.surgery.adapter import Adapter
from regard.surgery.inspection import Sharing, Upstream, class_name, patched, walk_unblocked
from regard.surgery.report import Folded

Folding = tuple[nn.Module, list[tuple[str, str]]]
"""The module to use from now on, and pairs of layers: the folded one, and the one that contains it now."""


class Fold:
    """Base class of the folds. A new one needs a class and a line in `rules.FOLDS`.

    Attributes:
        upstream_classes: full names of the classes, without their subclasses, whose layers it folds.
        replaces_module: whether a new module takes the place of the old one; a whole model is never replaced.
        is_channels_last: whether the result is made for channels-last images.
    """

    upstream_classes: ClassVar[tuple[str, ...]]
    replaces_module: ClassVar[bool] = False
    is_channels_last: ClassVar[bool] = False

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold what can be folded in `module`.

        Args:
            module: in evaluation mode; changes in place, unless the fold `replaces_module`.
            sharing: the tied parameters of the whole model.

        Returns:
            `module` or its replacement, and the names of the folded layers.
        """
        raise NotImplementedError


@torch.no_grad()
def fold_layers(model: nn.Module, folds: Sequence[type[Fold]], blocked: Collection[str] = ()) -> tuple[Folded, ...]:
    """Fold the layers of a model in place.

    Args:
        model: in evaluation mode, with parameters that no other model uses.
        folds: applied in turn, each to the whole model.
        blocked: paths whose modules must not change.
    """
    sharing = Sharing(model)
    folded: list[Folded] = []
    for fold in folds:
        for path, module in walk_unblocked(model, blocked):
            kind = module.original if isinstance(module, Adapter) else type(module)
            if class_name(kind) not in fold.upstream_classes or patched(module):
                continue
            if fold.replaces_module and not path:
                continue
            new, layers = fold.apply(module, sharing)
            if new is not module:
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, new.eval())
            folded += [Folded(f"{path}.{layer}".lstrip("."), into) for layer, into in layers]
    return tuple(folded)
