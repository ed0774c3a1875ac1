"""The entry point: `fuse`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from regard.surgery.choose import choose, choose_folded, make_report
from regard.surgery.compare import EXAMPLE_HINT, Example, random_example
from regard.surgery.inspection import walk
from regard.surgery.judge import Judge, Stopwatch
from regard.surgery.modes import outside_inference_mode
from regard.surgery.replace import Model, Replacer, copy_model
from regard.surgery.report import FuseReport
from regard.surgery.search import find


@outside_inference_mode
def fuse(
    model: Model,
    *,
    inference: bool = False,
    inplace: bool = False,
    check: bool = True,
    measure: bool = True,
    example: Example | None = None,
) -> Model:
    """Return an equivalent model whose attention modules run on regard's functions.

    The result has the same class, the same parameter objects (training one model trains both) and the same names in
    its state dict. Like `torch.compile`, it is used as `model = fuse(model)`. The attribute `fuse_report` lists what
    was replaced, what was not and why, and prints as a table.

    What replaces a module is decided by measurement, on the example, and kept only if it is faster by 3 %. The
    model as a whole is measured too: if it is not faster, it stays as it was. A model in training mode is measured
    forward and backward, so call `eval()` first if it will only predict.

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
        measure: decide by measurement, which takes seconds and may end differently on another machine or in another
            run. False decides by speed-ups that are stored per instruction set.
        example: the batch for the check and for measuring, best of the size that the model will run on: a tensor, a
            sequence of arguments, or a mapping of arguments by name. None draws random images of the size in the
            model's `pretrained_cfg` or `config`: two for the check, one for measuring.

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
    drawn = random_example(model) if example is None and (check or measure) else example
    batch, unchecked = _batch(drawn) if check else (None, "check=False")
    blocked = next(reason for _, _, reason in walk(model))  # why the model as a whole must not change
    target = model if blocked or (inplace and not inference) else copy_structure(model, inference)
    found, left = find(target)
    if blocked or not (found or inference):
        _set_report(target, FuseReport((), tuple(left)))
        return target
    replacer = Replacer(target, found, batch, unchecked)
    replacer.replace()
    judge = _judge(replacer, drawn, example is None, inference) if measure else Judge("measure=False")
    form, trials = (choose_folded if inference else choose)(replacer, judge)
    if example is None and batch is not None and replacer.unchecked:
        replacer.unchecked += f"; {EXAMPLE_HINT}"
    _set_report(form.model, make_report(replacer, form, trials, tuple(left), judge.unmeasured))
    result = cast(Model, form.model)  # of the same class, or of a class derived from it
    if inference and inplace:
        model.__class__ = type(result)
        vars(model).update(vars(result))
        return model
    return result


def _batch(drawn: Example | str | None) -> tuple[Example | None, str]:
    """Return the input for the check, or None and why there is none."""
    return (None, drawn) if isinstance(drawn, str) else (drawn, "")


def _judge(replacer: Replacer, example: Example | str | None, is_drawn: bool, inference: bool) -> Judge:
    """Return what decides: a measurement if the model runs on the example, else the calibration."""
    batch, problem = _batch(example)
    if batch is None:
        return Judge(problem)
    if is_drawn and isinstance(batch, Tensor):
        batch = batch[:1]  # the check needs two images, but one is what most predictions run on
    stopwatch = Stopwatch(batch, is_training=replacer.model.training and not inference)
    return Judge(f"the model raises {problem}") if (problem := stopwatch.problem(replacer.model)) else stopwatch


def copy_structure(model: Model, inference: bool) -> Model:
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
