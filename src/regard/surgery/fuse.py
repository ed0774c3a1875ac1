"""Making models of others faster: the same weights, the same outputs, our attention."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import Tensor, nn

from regard.errors import UnsupportedError
from regard.surgery import checking
from regard.surgery.checking import Example
from regard.surgery.finding import find
from regard.surgery.obstacles import walk
from regard.surgery.operating import Surgery
from regard.surgery.report import FuseReport, Replaced

Model = TypeVar("Model", bound=nn.Module)


def fuse(
    model: Model, *, inference: bool = False, inplace: bool = False, check: bool = True, example: Example | None = None
) -> Model:
    """Let the attention modules of timm and transformers in a model run on regard's attention.

    The result is a model like the one that came: of the same class, with the same parameters (the very same objects,
    so training one trains both) and names in its state dict. It is returned by itself, so that `model = fuse(model)`
    stands where `model = torch.compile(model)` would; what was done, and what was not and why, is its attribute
    `fuse_report`, which prints as a table.

    Modules with hooks, parametrizations, tied or quantised weights, compiled and scripted ones, and subclasses with
    another forward are left alone. Calls that regard does not serve, such as masked ones, run as before.

    Args:
        model: any module; what is not attention of timm or transformers 5 stays as it is.
        inference: also puts the model in evaluation mode and folds layers into one another: batch norms into
            convolutions, layer scales and SwiftFormer's `proj` into the layer after which they stand, two classifiers
            that are averaged into one; and picks the memory layout. Parameters are new then, and names change.
        inplace: change the model itself, not a copy.
        check: compare the outputs on a random batch; what does not agree to float32 rounding is undone and reported.
        example: the batch for the check, a tensor, a sequence of arguments or a mapping of them by name; None draws
            images of the size in the model's `pretrained_cfg` or `config`.

    Raises:
        TypeError: no module came.
        UnsupportedError: the model cannot be copied.

    Example:
        >>> from torch import nn
        >>> model = fuse(nn.Linear(2, 2))
        >>> print(model.fuse_report)
        nothing  to replace
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    batch, unchecked = _batch(model, check, example)
    target = model if inplace else _share(model)
    found, left = find(target)
    closed = next(reason for _, _, reason in walk(target))  # why the whole model must stay as it is
    if closed or not (found or inference):
        _attach(target, FuseReport((), tuple(left)))
        return target
    surgery = Surgery(target, found, batch, unchecked)
    surgery.replace()
    report = FuseReport(
        tuple(
            Replaced(one.path, one.name, one.rule.mechanism, one.note, surgery.differences.get(one.path))
            for one in surgery.found
        ),
        (*left, *surgery.left),
        difference=surgery.difference,
        tolerance=surgery.tolerance,
        unchecked=surgery.unchecked,
    )
    if inference:
        folded, report = surgery.fold(report, inplace)
        target = cast(Model, folded)  # of the same class, or of one derived from it
    _attach(target, report)
    return target


def _batch(model: nn.Module, check: bool, example: Example | None) -> tuple[Example | None, str]:
    if not check:
        return None, "check=False"
    if example is not None:
        return example, ""
    drawn = checking.make_example(model)
    return (None, drawn) if isinstance(drawn, str) else (drawn, "")


def _share(model: Model) -> Model:
    """Copy the structure of a model around the same parameters and buffers."""
    kept: dict[int, object] = {}
    for _, module, closed in walk(model):
        if closed:
            kept[id(module)] = module
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                kept[id(value)] = value
    try:
        return copy.deepcopy(model, kept)
    except Exception as error:  # locks, files, processes: whatever a stranger's model holds
        raise UnsupportedError(
            f"the model cannot be copied ({type(error).__name__}: {error}); pass inplace=True to change it itself"
        ) from error


def _attach(model: nn.Module, report: FuseReport) -> None:
    model.__dict__["fuse_report"] = report
