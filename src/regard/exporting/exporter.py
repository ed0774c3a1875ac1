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

from regard.errors import ExportError
from regard.exporting.checks import (
    PACKAGES,
    channels,
    check_arguments,
    check_call,
    check_photographs,
    check_request,
)
from regard.exporting.compiled import check_compile, write_compiled
from regard.exporting.culprit import find_culprit
from regard.exporting.files import write_onnx, write_openvino, write_pt2
from regard.exporting.metadata import Metadata, versions
from regard.exporting.mobile import write_executorch
from regard.exporting.opened import Opened, format_of
from regard.exporting.program import Deployed, make_program, step_of
from regard.exporting.quantize import check_int8, quantize, read_calibration
from regard.exporting.samples import sample_images, to_pixels
from regard.exporting.verify import TOLERANCE, Verification, verify
from regard.models import Preprocessing
from regard.training.classifier import Classifier
from regard.training.output import writing


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
        UnsupportedError: an axis that the model fixes, operators that the format does not have, or image files for a
            model that takes no RGB images.
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
    dynamic = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    check_arguments(model, size, batch)
    classifier = model if isinstance(model, Classifier) else _unnamed(model)
    preprocessing = classifier.preprocessing if size is None else replace(classifier.preprocessing, image_size=size)
    path, kind, network = Path(file), format_of(file), classifier.model
    check_request(network, path, dynamic, kernels, preprocess, portable)
    check_photographs(network, images=images, int8=int8)
    if compile:
        check_compile(kind, portable, dynamic)
    if int8 is not None:
        check_int8(kind, kernels)
    metadata = Metadata(
        *(classifier.name, classifier.weights, classifier.classes, preprocessing),
        is_preprocessed=preprocess,
        kernels=kernels,
        batch=None if "batch" in dynamic else batch,
        dynamic=dynamic,
        in_chans=channels(network),
        versions=versions(*PACKAGES[kind]),
    )
    with writing(path) as unfinished, TemporaryDirectory(dir=path.parent) as folder:
        x, names = sample_images(preprocessing, images, in_chans=channels(network))
        calibration = None if int8 is None else read_calibration(preprocessing, int8)
        check_call(network, x[:1].expand(batch, *x.shape[1:]), dynamic, classifier.classes)
        if preprocess:
            network, x = Deployed(network, preprocessing).eval(), to_pixels(x, preprocessing)
        form = kernels if kind != "pt2" else "standard" if portable else "torch"
        program = make_program(network, _example(x, batch, dynamic), dynamic=dynamic, kernels=form)
        made = Path(folder) / f"{path.stem}{path.suffix.lower()}"
        if compile:
            write_compiled(program, made, metadata)
        else:
            program = write_file(program, made, metadata)
        others = _other_calls(network, x, dynamic)
        found = verify(Opened.open(made), network, x, names, tolerance, others)
        if not found.passed:
            raise _failed(found, made, path, program, metadata, x)
        if calibration is not None:
            found = quantize(made, kind, network, calibration, preprocessing if preprocess else None)
            if not found.passed:
                raise _kept_aside(found, made, path)
        weights = _weights(made)
        total = sum(one.stat().st_size for one in (made, *weights))
        for one in weights:
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


def _other_calls(model: nn.Module, x: Tensor, dynamic: Sequence[str]) -> dict[str, Tensor]:
    """Return a batch of other lengths for the axes that are chosen later."""
    if not dynamic:
        return {}
    rows = x[-1:].repeat(3 if "batch" in dynamic else 1, 1, 1, 1)
    if "size" in dynamic:
        step, axes = step_of(model), (1, 2) if x.dtype == torch.uint8 else (2, 3)
        for axis, steps in zip(axes, (1, 2), strict=True):
            rows = torch.cat([rows, rows.narrow(axis, 0, step).repeat_interleave(steps, axis)], axis)
    return {f"another {' and '.join(dynamic)}": rows}


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
    if made.suffix == ".onnx" and not found.culprit:
        worst = min(found.worst, len(x) - 1)  # or any, if only another length differs
        given = x[worst : worst + 1].expand(metadata.batch or 1, *x.shape[1:]).contiguous()
        culprit = find_culprit(program, made, given, kernels=metadata.kernels, tolerance=found.tolerance)
        found = replace(found, culprit=culprit)
    return _kept_aside(found, made, path)


def _kept_aside(found: Verification, made: Path, path: Path) -> ExportError:
    for one in _weights(made):
        one.replace(path.with_name(f"{path.stem}{one.suffix}.failed"))
    aside = path.with_name(f"{path.name}.failed")
    made.replace(aside)
    return ExportError(f"the exported file does not agree with the model: {found}; it is kept as {str(aside)!r}")


def _weights(made: Path) -> list[Path]:
    """Return the files beside an exported file: OpenVINO's weights."""
    return [one for one in made.parent.iterdir() if one != made]
