"""`regard.export`: a model as a file that other runtimes run, checked before it is handed over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from regard.errors import ExportError, OptionError, RegardError, ShapeError, UnsupportedError
from regard.exporting.compiled import check_compile, write_compiled
from regard.exporting.culprit import find_culprit
from regard.exporting.files import write_onnx, write_openvino, write_pt2
from regard.exporting.metadata import Metadata, versions
from regard.exporting.mobile import EXTRA, check_executorch, write_executorch
from regard.exporting.opened import Opened, format_of, operators_library
from regard.exporting.program import KERNELS, Deployed, check_axes, make_program, step_of
from regard.exporting.quantize import check_int8, quantize, read_calibration
from regard.exporting.samples import sample_images, to_pixels
from regard.exporting.verify import TOLERANCE, Verification, verify
from regard.extras import require
from regard.models import Preprocessing
from regard.training.classifier import Classifier
from regard.training.output import writing

PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "pt2": (),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch",),
}
"""That a format needs."""


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        file: where it is.
        format: "onnx", "pt2", "openvino" or "executorch".
        bytes: of the file, with its weights.
        verification: how it agrees with the model.
        seconds: that the export took, with the verification.
    """

    file: Path
    format: str
    bytes: int
    verification: Verification
    seconds: float


def export(
    model: nn.Module | Classifier,
    file: str | Path,
    *,
    size: int | None = None,
    batch: int = 1,
    dynamic: Sequence[str] = (),
    kernels: str = "standard",
    preprocess: bool = False,
    portable: bool = False,
    images: Sequence[str | Path] | None = None,
    tolerance: float = TOLERANCE,
    int8: Sequence[str | Path] | None = None,
    compile: bool = False,
) -> Exported:
    """Write a model as ONNX, a program of `torch.export`, OpenVINO or ExecuTorch, and verify the file.

    The file runs on photographs and a random image; its logits must differ by at most `tolerance` of the largest one,
    and name the same classes. A file that does not is kept with the ending `.failed`, and the first node that differs
    is named with its module.

    Args:
        model: a model in evaluation mode; or a `Classifier`, whose names of classes are stored in the file.
        file: its ending is the format: `.onnx`, `.pt2`, `.xml` (OpenVINO) or `.pte` (ExecuTorch with XNNPACK).
        size: of the images, in pixels; by default the model's.
        batch: images of a call, unless the batch is dynamic.
        dynamic: "batch", "size": the axes that are chosen at every call. Heights and widths are multiples of a step
            that depends on the model: 1 for SwiftFormer and NAT, the patch of ViT and CaiT.
        kernels: "standard" uses the format's own operators; "regard" uses regard's, whose kernels ONNX Runtime finds in
            `regard.exporting.operators_library`, and OpenVINO's Python runtime in `openvino_operators`.
        preprocess: the file takes pixels `[B, H, W, 3]` in uint8 and returns probabilities.
        portable: a `.pt2` without regard's operators; with them it needs `import regard` where it is loaded, and is
            fused there.
        images: files, folders or patterns to verify with; by default scikit-learn's two photographs, if installed.
        tolerance: of the verification.
        int8: files, folders or patterns of images like those to classify, at least ten: weights and activations of
            dense layers and convolutions become 8-bit integers. The file in float32 is verified first. Of every fifth
            image, which is held out, at least nine in ten must keep their class; see `regard.exporting.Quantized`.
        compile: a `.pt2` of machine code for processors like this one, by AOTInductor, which takes minutes. It needs
            `import regard`, but no compiler, where it is loaded, and takes images of one size.

    Raises:
        OptionError: an unknown ending, axis or word.
        ShapeError: a size that the model cannot take.
        DataError: a file that cannot be written, or images that cannot be read.
        UnsupportedError: an axis that the model fixes, or operators that the format does not have.
        MissingDependencyError: a package that the format needs; `pip install 'regard[export]'`.
        ExportError: the file does not agree with the model.

    Example:
        >>> from regard.models import create_model
        >>> file = getfixture("tmp_path") / "nat.pt2"
        >>> exported = export(create_model("nat_nano", num_classes=5).eval(), file, size=32)
        >>> exported.verification.passed, file.is_file()
        (True, True)
    """
    begin = time.perf_counter()
    classifier = model if isinstance(model, Classifier) else _unnamed(model)
    if size is not None and size < 1:
        raise ShapeError(f"size must be at least 1 pixel, got {size}")
    preprocessing = classifier.preprocessing if size is None else replace(classifier.preprocessing, image_size=size)
    path, kind, network = Path(file), format_of(file), classifier.model
    _check(network, kind, batch, dynamic, kernels, preprocess, portable)
    if compile:
        check_compile(kind, portable, dynamic)
    if int8 is not None:
        check_int8(kind, kernels)
    metadata = Metadata(
        classifier.name,
        classifier.weights,
        classifier.classes,
        preprocessing,
        preprocess,
        kernels,
        None if "batch" in dynamic else batch,
        tuple(dynamic),
        versions(*PACKAGES[kind]),
    )
    with writing(path) as unfinished, TemporaryDirectory(dir=path.parent) as folder:
        x, names = sample_images(preprocessing, images, in_chans=_channels(network))
        calibration = None if int8 is None else read_calibration(preprocessing, int8)
        _try(network, x[:1], dynamic)
        if preprocess:
            network, x = Deployed(network, preprocessing).eval(), to_pixels(x, preprocessing)
        form = kernels if kind != "pt2" else "standard" if portable else "torch"
        program = make_program(network, _example(x, batch, dynamic), dynamic=dynamic, kernels=form)
        made = Path(folder) / path.name
        if compile:
            write_compiled(program, made, metadata)
        else:
            program = write_file(program, made, metadata)
        found = verify(Opened.open(made), network, x, names, tolerance)
        if not found.passed:
            raise _failed(found, made, path, program, metadata, x)
        if calibration is not None:
            found = quantize(made, kind, network, calibration, preprocessing if preprocess else None)
            if not found.passed:
                raise _kept_aside(found, made, path)
        others = [one for one in Path(folder).iterdir() if one != made]  # OpenVINO's weights
        total = sum(one.stat().st_size for one in (made, *others))
        for one in others:
            one.replace(path.with_suffix(one.suffix))
        made.replace(unfinished)
    return Exported(path, kind, total, found, time.perf_counter() - begin)


def _unnamed(model: nn.Module) -> Classifier:
    """Return a classifier of a model whose classes have no names."""
    preprocessing = getattr(model, "preprocessing", None)
    count = int(getattr(model, "num_classes", 0) or 0)
    return Classifier(
        type(model).__name__,
        "the model's own",
        model,
        preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing(),
        tuple(map(str, range(count))),
        {},
    )


def _check(
    model: nn.Module,
    kind: str,
    batch: int,
    dynamic: Sequence[str],
    kernels: str,
    preprocess: bool,
    portable: bool,
) -> None:
    """Check what can be checked without the long work."""
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
    if batch < 1:
        raise OptionError(f"batch must be at least 1, got {batch}")
    if model.training:
        raise OptionError("expected a model in evaluation mode, got one in training mode; call model.eval()")
    if preprocess and _channels(model) != 3:
        raise UnsupportedError(f"preprocess takes RGB pixels, and the model takes {_channels(model)} channels")
    for package in PACKAGES[kind]:
        require(package, EXTRA if kind == "executorch" else "export")
    if kind == "executorch":
        check_executorch(dynamic)


def _channels(model: nn.Module) -> int:
    return int(getattr(model, "in_chans", 3))


def _try(model: nn.Module, x: Tensor, dynamic: Sequence[str]) -> None:
    """Run the model once, since an exporter's errors about sizes are hard to read."""
    side = x.shape[-1]
    if "size" in dynamic and side % step_of(model):
        raise ShapeError(f"a dynamic size must be a multiple of {step_of(model)}, got {side}; choose another --size")
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RegardError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ShapeError(f"the model cannot take images of {side} pixels ({reason}); choose another --size") from error


def _example(x: Tensor, batch: int, dynamic: Sequence[str]) -> Tensor:
    """Return an input of the batch; `torch.export` would fix a dynamic batch of 1."""
    count = max(2, batch) if "batch" in dynamic else batch
    return x[:1].expand(count, *x.shape[1:]).clone(memory_format=torch.contiguous_format)


def write_file(program: ExportedProgram, made: Path, metadata: Metadata) -> ExportedProgram:
    """Write a program in the format of the file's ending; return the one whose values have the names of its nodes."""
    kind = format_of(made)
    if kind == "pt2":
        write_pt2(program, made, metadata)
        return program
    if kind == "executorch":
        write_executorch(program, made, metadata)
        return program
    source = made.with_suffix(".onnx")
    program = write_onnx(program, source, metadata, packs=kind == "onnx")
    if kind == "openvino":
        write_openvino(source, made, metadata)
        source.unlink()
    return program


def _failed(
    found: Verification, made: Path, path: Path, program: ExportedProgram, metadata: Metadata, x: Tensor
) -> ExportError:
    """Keep the file aside, and look for the first node that differs."""
    if made.suffix == ".onnx":
        worst = found.worst
        given = x[worst : worst + 1].expand(metadata.batch or 1, *x.shape[1:]).contiguous()
        culprit = find_culprit(program, made, given, kernels=metadata.kernels, tolerance=found.tolerance)
        found = replace(found, culprit=culprit)
    return _kept_aside(found, made, path)


def _kept_aside(found: Verification, made: Path, path: Path) -> ExportError:
    aside = path.with_name(f"{path.name}.failed")
    made.replace(aside)
    return ExportError(f"the exported file does not agree with the model: {found}; it is kept as {str(aside)!r}")
