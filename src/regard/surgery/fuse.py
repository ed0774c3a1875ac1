"""Making models of others faster: the same weights, the same outputs, our attention."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from regard.surgery import checking
from regard.surgery.checking import Example
from regard.surgery.finding import find
from regard.surgery.obstacles import walk
from regard.surgery.operating import Model, Surgery, copy_of
from regard.surgery.report import FuseReport


def fuse(
    model: Model, *, inference: bool = False, inplace: bool = False, check: bool = True, example: Example | None = None
) -> Model:
    """Let the attention modules of timm and transformers in a model run on regard's attention.

    The result is a model like the one that came: of the same class, with the same parameters (the very same objects,
    so training one trains both) and names in its state dict. It is returned by itself, so that `model = fuse(model)`
    stands where `model = torch.compile(model)` would; what was done, and what was not and why, is its attribute
    `fuse_report`, which prints as a table.

    Modules with hooks, parametrizations, tied or quantized weights, compiled and traced ones, and subclasses with
    another forward are left alone. Calls that regard does not serve, such as masked ones, run as before.

    Args:
        model: any module; what is not attention of timm or transformers 5 stays as it is.
        inference: also puts the model in evaluation mode and folds layers into one another: batch norms into
            convolutions, layer scales and SwiftFormer's `proj` into the layer after which they stand, two classifiers
            that are averaged into one; and picks the memory layout. Parameters are new then, and names change.
        inplace: change the model itself, not a copy; with `inference`, the modules in it are new objects all the same.
        check: compare the outputs on a random batch; what does not agree to float32 rounding is undone and reported.
        example: the batch for the check, a tensor, a sequence of arguments or a mapping of them by name; None draws
            images of the size in the model's `pretrained_cfg` or `config`.

    Raises:
        TypeError: no module came.
        UnsupportedError: the model cannot be copied; nothing has changed then.

    Example:
        >>> from torch import nn
        >>> model = fuse(nn.Linear(2, 2))
        >>> print(model.fuse_report)
        nothing  to replace
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    batch, unchecked = _batch(model, check, example)
    closed = next(reason for _, _, reason in walk(model))  # why the whole model must stay as it is
    target = model if closed or (inplace and not inference) else _share(model, inference)
    found, left = find(target)
    if closed or not (found or inference):
        _attach(target, FuseReport((), tuple(left)))
        return target
    surgery = Surgery(target, found, batch, unchecked)
    surgery.replace()
    drawn = example is None and batch is not None
    report = FuseReport(
        surgery.replaced(),
        (*left, *surgery.left),
        difference=surgery.difference,
        tolerance=surgery.tolerance,
        unchecked=f"{surgery.unchecked}; {checking.HOW}" if surgery.unchecked and drawn else surgery.unchecked,
    )
    if inference:
        folded, report = surgery.fold(report)
        target = cast(Model, folded)  # of the same class, or of one derived from it
        if inplace:
            model.__class__ = type(target)
            vars(model).update(vars(target))
            target = model
    _attach(target, report)
    return target


def _batch(model: nn.Module, check: bool, example: Example | None) -> tuple[Example | None, str]:
    if not check:
        return None, "check=False"
    if example is not None:
        return example, ""
    drawn = checking.make_example(model)
    return (None, drawn) if isinstance(drawn, str) else (drawn, "")


def _share(model: Model, inference: bool) -> Model:
    """Copy the structure of a model around the same parameters and buffers."""
    kept: dict[int, object] = {}
    for _, module, closed in walk(model):
        if closed:
            kept[id(module)] = module
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                kept[id(value)] = value
    remedy = "leave out inference=True, which copies it" if inference else "pass inplace=True to change it itself"
    return copy_of(model, kept, remedy)


def _attach(model: nn.Module, report: FuseReport) -> None:
    model.__dict__["fuse_report"] = report
