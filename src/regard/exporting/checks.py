"""What is checked before the long work of an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from regard.errors import DataError, OptionError, RegardError, ShapeError, UnsupportedError
from regard.exporting.mobile import EXTRA, check_executorch
from regard.exporting.opened import format_of, operators_library
from regard.exporting.program import KERNELS, SMALLEST_SIDE, check_axes, step_of
from regard.extras import require
from regard.training.classifier import Classifier

PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "pt2": (),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch",),
}
"""That a format needs."""


def check_arguments(model: object, size: object, batch: object) -> None:
    """Check the types of a model and the ranges of numbers."""
    if not isinstance(model, nn.Module | Classifier):
        raise OptionError(f"expected a model or a classifier, got {type(model).__name__}; see regard.create_model")
    for name, number in (("size", size), ("batch", batch)):
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise OptionError(f"{name} must be a whole number, got {number!r}")
        if number < 1:
            raise ShapeError(f"{name} must be at least 1, got {number}")


def check_request(
    model: nn.Module, file: Path, dynamic: Sequence[str], kernels: str, preprocess: bool, portable: bool
) -> None:
    """Check options, packages and the model's weights."""
    kind = format_of(file)
    check_axes(dynamic)
    if kernels not in KERNELS:
        raise OptionError.unknown("kernels", kernels, KERNELS)
    if kernels == "regard":
        if kind not in ("onnx", "openvino"):
            raise UnsupportedError(
                f"kernels='regard' are for ONNX Runtime and OpenVINO, got a {kind} file; leave it out"
            )
        if kind == "onnx":
            operators_library()
    if portable and kind != "pt2":
        raise OptionError(f"portable chooses the operators of a .pt2 file, got a {kind} file; leave it out")
    if kind == "openvino" and file.with_suffix(".bin").is_dir():
        raise DataError(f"the weights need a file, got the folder {str(file.with_suffix('.bin'))!r}; rename it")
    others = {str(one.dtype) for one in model.parameters() if one.dtype != torch.float32}
    others |= {f"{one.device}" for one in model.parameters() if one.device.type != "cpu"}
    if others:
        raise OptionError(
            f"expected weights in float32 on the CPU, got {', '.join(sorted(others))}; call model.float().cpu()"
        )
    if model.training:
        raise OptionError("expected a model in evaluation mode, got one in training mode; call model.eval()")
    if preprocess and channels(model) != 3:
        raise UnsupportedError(f"preprocess takes RGB pixels, and the model takes {channels(model)} channels")
    for package in PACKAGES[kind]:
        require(package, EXTRA if kind == "executorch" else "export")
    if kind == "executorch":
        check_executorch(dynamic)


def check_photographs(model: nn.Module, **given: Sequence[str | Path] | None) -> None:
    """Refuse image files, by the name of their argument, for a model that does not take RGB images."""
    for name, files in given.items():
        if files is not None and channels(model) != 3:
            raise UnsupportedError(
                f"{name} needs a model of RGB images, and this one has in_chans={channels(model)}; leave {name} out"
            )


def channels(model: nn.Module) -> int:
    """Return the channels of the model's images."""
    return int(getattr(model, "in_chans", 3))


def check_call(model: nn.Module, x: Tensor, dynamic: Sequence[str], classes: Sequence[str]) -> None:
    """Run the model once, since an exporter's errors about sizes are hard to read."""
    side = x.shape[-1]
    if "size" in dynamic and (side % step_of(model) or side < SMALLEST_SIDE):
        raise ShapeError(
            f"a dynamic size must be a multiple of {step_of(model)} and at least {SMALLEST_SIDE}, got {side}; "
            "choose another --size"
        )
    try:
        with torch.no_grad():
            out = model(x)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RegardError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ShapeError(
            f"the model cannot take images {list(x.shape)} ({reason}); choose another --size or --batch"
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or not out.numel():
        shown = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UnsupportedError(f"expected a model that returns logits [B, classes], got {shown}")
    if not out.isfinite().all():
        raise UnsupportedError("the model returns NaN or infinity for an image, which no file can be compared with")
    if classes and len(classes) != out.shape[1]:
        raise OptionError(f"expected a name for each of the {out.shape[1]} classes, got {len(classes)} names")
