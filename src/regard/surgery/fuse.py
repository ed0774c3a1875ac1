"""The entry point: `fuse`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from regard.surgery.compare import EXAMPLE_HINT, Example, random_example
from regard.surgery.inspection import walk
from regard.surgery.replace import Model, Replacer, copy_model
from regard.surgery.report import FuseReport
from regard.surgery.search import find


def fuse(
    model: Model, *, inference: bool = False, inplace: bool = False, check: bool = True, example: Example | None = None
) -> Model:
    """Return an equivalent model whose attention modules run on regard's functions.

    The result has the same class, the same parameter objects (training one model trains both) and the same names in
    its state dict. Like `torch.compile`, it is used as `model = fuse(model)`. The attribute `fuse_report` lists what
    was replaced, what was not and why, and prints as a table.

    Modules stay as they are if they have hooks, parametrizations, tied or quantized weights, are compiled or traced,
    or belong to a subclass with another forward. Calls that regard does not support, such as masked ones, run the
    upstream forward. `set_backend` changes the backend of the result: with "fused", such calls raise an
    UnsupportedError instead.

    Args:
        model: any module. Only attention and MLPs of timm, torchvision and transformers 5 are replaced.
        inference: also put the model in evaluation mode and fold layers into one another: batch norms into
            convolutions, layer scales and SwiftFormer's `proj` into the layer before or after them, two averaged
            classifiers into one. Parameters are then new, and names and the memory layout change.
        inplace: change the model itself, not a copy. With `inference`, its modules are new objects nevertheless.
        check: compare the outputs on a batch; a replacement that changes them by more than float32 rounding is undone
            and reported.
        example: the batch for the check: a tensor, a sequence of arguments, or a mapping of arguments by name. None
            draws random images of the size in the model's `pretrained_cfg` or `config`.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        UnsupportedError: the model cannot be copied. It is unchanged then.

    Example:
        >>> from torch import nn
        >>> model = fuse(nn.Linear(2, 2))
        >>> print(model.fuse_report)
        nothing  to replace
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model, not its name")
    batch, unchecked = _batch(model, check, example)
    blocked = next(reason for _, _, reason in walk(model))  # why the model as a whole must not change
    target = model if blocked or (inplace and not inference) else _copy_structure(model, inference)
    found, left = find(target)
    if blocked or not (found or inference):
        _set_report(target, FuseReport((), tuple(left)))
        return target
    replacer = Replacer(target, found, batch, unchecked)
    replacer.replace()
    drawn = example is None and batch is not None
    report = FuseReport(
        replacer.replaced(),
        (*left, *replacer.left),
        difference=replacer.difference,
        tolerance=replacer.tolerance,
        unchecked=f"{replacer.unchecked}; {EXAMPLE_HINT}" if replacer.unchecked and drawn else replacer.unchecked,
    )
    if inference:
        folded, report = replacer.fold(report)
        target = cast(Model, folded)  # of the same class, or of a class derived from it
        if inplace:
            model.__class__ = type(target)
            vars(model).update(vars(target))
            target = model
    _set_report(target, report)
    return target


def _batch(model: nn.Module, check: bool, example: Example | None) -> tuple[Example | None, str]:
    """Return the input for the check, or None and why there is no check."""
    if not check:
        return None, "check=False"
    if example is not None:
        return example, ""
    drawn = random_example(model)
    return (None, drawn) if isinstance(drawn, str) else (drawn, "")


def _copy_structure(model: Model, inference: bool) -> Model:
    """Copy the modules of a model, which keep the same parameters and buffers."""
    kept: dict[int, object] = {}
    for _, module, blocked in walk(model):
        if blocked:
            kept[id(module)] = module
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                kept[id(value)] = value
    remedy = "leave out inference=True, which copies it" if inference else "pass inplace=True to change it itself"
    return copy_model(model, kept, remedy)


def _set_report(model: nn.Module, report: FuseReport) -> None:
    model.__dict__["fuse_report"] = report
