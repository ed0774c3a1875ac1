"""The entry point: `freeze`."""

from __future__ import annotations

import itertools
import warnings

import torch
from torch import nn

from regard.errors import OptionError, UnsupportedError
from regard.surgery.compare import Example
from regard.surgery.freezing import compiler
from regard.surgery.freezing.bfloat16 import Bfloat16, has_bfloat16
from regard.surgery.freezing.frozen import Frozen
from regard.surgery.freezing.report import FreezeReport
from regard.surgery.freezing.signature import Signature, arguments_of
from regard.surgery.freezing.trial import Trial
from regard.surgery.fuse import fuse
from regard.surgery.modes import outside_inference_mode

NO_BFLOAT16 = "this processor has no bfloat16 instructions, so that float32 is faster"


@outside_inference_mode
def freeze(
    model: nn.Module,
    example: Example,
    *,
    dtype: torch.dtype | None = None,
    compile: bool = True,
    seconds: float = 3.0,
) -> Frozen:
    """Return the fastest way to run a model on a CPU, for inputs like the example.

    Three candidates are built and measured in turn: the model as it is; the model after `fuse(inference=True)`, whose
    layers are folded and packed; and this one compiled ahead of time by AOTInductor. The fastest whose outputs agree
    with the original's is kept. The attribute `report` lists all of them with their times, and prints as a table.

    Without a working C++ compiler or a writable cache folder, the compiled candidate drops out, and the report says
    why. Compiling takes minutes per model.

    Inputs of another shape, dtype or number of threads than the example's run uncompiled, after one warning.

    Args:
        model: a model of regard, timm, transformers or any other in evaluation mode on the CPU. It stays unchanged.
            The result has its own weights, or shares them if the model as it is was the fastest.
        example: the inputs: a tensor, a sequence of arguments, or a mapping of arguments by name.
        dtype: torch.bfloat16 also tries dense layers and convolutions in bfloat16, where the processor has instructions
            for it. Elsewhere a warning says that the model stays in its own dtype. None keeps the model's dtypes.
        compile: False leaves out the compiled candidate.
        seconds: roughly how long the measurement may take.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        UnsupportedError: the model or a part of it is in training mode, or not on the CPU.
        OptionError: `dtype` is neither None nor torch.bfloat16.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
        >>> frozen = freeze(model, torch.randn(2, 8), compile=False, seconds=0.1)
        >>> frozen(torch.randn(2, 8)).shape
        torch.Size([2, 8])
        >>> [candidate.name for candidate in frozen.report.candidates]
        ['original', 'fused']
    """
    _check(model, dtype)
    arguments = arguments_of(example)
    signature = Signature(arguments)
    trial = Trial(model, example, arguments)
    fused = trial.add("fused", lambda: fuse(model, inference=True, example=example))
    served = fused if isinstance(fused, nn.Module) else model
    notes = [f"nothing was tried: {trial.problem}"] if trial.problem else []
    if compile:
        trial.add("compiled", lambda: compiler.compile_ahead(served, *arguments))
    if dtype is not None and not has_bfloat16():
        notes.append(NO_BFLOAT16)
        warnings.warn(f"dtype=torch.bfloat16: {NO_BFLOAT16}; the model stays in its own dtype", stacklevel=2)
    elif dtype is not None:
        trial.add("fused bfloat16", lambda: Bfloat16(served), dtype)
        if compile:
            trial.add("compiled bfloat16", lambda: compiler.compile_ahead(Bfloat16(served), *arguments), dtype)
    chosen = trial.measure(seconds)
    report = FreezeReport(
        chosen, tuple(trial.candidates.values()), str(signature), getattr(fused, "fuse_report", None), tuple(notes)
    )
    program = trial.programs[chosen]
    if isinstance(program, nn.Module):
        return Frozen(program, None, signature, report)
    return Frozen(served if trial.candidates["fused"].ratio < 1 else model, program, signature, report)


def _check(model: nn.Module, dtype: torch.dtype | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model, not its name")
    if dtype not in (None, torch.bfloat16):
        raise OptionError(f"dtype must be None or torch.bfloat16, got {dtype}; None keeps the model's dtypes")
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        where = f"its {training}" if training else "it"
        raise UnsupportedError(
            f"expected a model in evaluation mode, but {where} is in training mode; call model.eval()"
        )
    tensors = itertools.chain(model.parameters(), model.buffers())
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere is not None:
        raise UnsupportedError(f"expected a model on the CPU, got tensors on {elsewhere}; call model.cpu()")
