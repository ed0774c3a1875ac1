"""The entry point: `adapt`."""

from __future__ import annotations

from torch import nn

from regard.errors import UnsupportedError
from regard.surgery.adapter import AttentionAdapter, attach
from regard.surgery.fuse import copy_structure
from regard.surgery.inspection import walk
from regard.surgery.notes import DENSE
from regard.surgery.replace import Model
from regard.surgery.search import find


def adapt(model: Model, *, inplace: bool = False) -> Model:
    """Return an equivalent model whose attention runs on regard's functions, whether that is faster or not.

    `fuse` replaces what becomes faster. This replaces every attention that regard knows, so that `regard.explain` sees
    its queries and keys. Parameters are shared with the original, and names are the same.

    Args:
        model: of timm, torchvision or transformers.
        inplace: change the model itself, not a copy.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        UnsupportedError: nothing can be replaced; the message lists the attention that was found, and why.

    Example:
        >>> from torch import nn
        >>> adapt(nn.Linear(2, 2))
        Traceback (most recent call last):
        ...
        regard.errors.UnsupportedError: expected a model with attention that regard knows, got Linear, which has none
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model, not its name")
    blocked = next(reason for _, _, reason in walk(model))
    target = model if blocked or inplace else copy_structure(model, inference=False)
    found, left = find(target)
    attentions = [one for one in found if one.adapter.mechanism != DENSE]
    if blocked or not (attentions or any(isinstance(module, AttentionAdapter) for module in target.modules())):
        problems = blocked if blocked else "; ".join(f"{one.path}: {one.reason}" for one in left)
        raise UnsupportedError(
            f"expected a model with attention that regard knows, got {type(model).__name__}, which has none"
            + (f" ({problems})" if problems else "")
        )
    for one in attentions:
        attach(one.module, one.adapter)
    return target
