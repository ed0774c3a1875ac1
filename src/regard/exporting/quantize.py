"""Exported files in int8: static post-training quantization by the runtimes' own tools, calibrated on images."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import DataError, UnsupportedError
from regard.exporting.opened import Opened
from regard.exporting.samples import to_pixels
from regard.exporting.verify import Verification, verify
from regard.extras import require
from regard.models import Preprocessing
from regard.training.images import read_image
from regard.training.selection import select_images

MIN_AGREEMENT = 0.9
"""The share of held-out images that must keep their class. Of a NAT trained on digits, 99 % do."""

MIN_IMAGES, MAX_IMAGES = 10, 320
HELD_OUT = 5
"""Every fifth image is held out of the calibration."""

OPERATORS = ("Conv", "Gemm", "MatMul")
"""Those with weights. Norms, softmax and sums of few operations lose accuracy in int8 and gain no time."""

MAX_DIFFERENCE = 1.0
"""Relative to the largest output. A larger one is a broken file, whatever its classes."""

FORMATS = ("onnx", "openvino")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Flags of processors that multiply and add bytes in one instruction, as Linux names them; the last one is ARM's."""


@dataclass(frozen=True)
class Quantized(Verification):
    """How the classes of an int8 file agree with those of the model, on images that did not calibrate it.

    Attributes:
        min_agreement: the share of the images that must keep their class.
        calibration: number of images that did calibrate it.
        note: about the processor; empty if it multiplies bytes fast.
    """

    min_agreement: float = MIN_AGREEMENT
    calibration: int = 0
    note: str = ""

    @property
    def agreement(self) -> float:
        """The share of the images that keep their class."""
        return sum(self.agree) / len(self.agree)

    @property
    def passed(self) -> bool:
        """Whether enough images keep their class; a difference that is no number does not pass."""
        return self.agreement >= self.min_agreement and all(one <= self.tolerance for one in self.differences)

    def __str__(self) -> str:
        median = sorted(self.differences)[len(self.differences) // 2]
        found = (
            f"int8, calibrated on {self.calibration} images; {sum(self.agree)} of {len(self.agree)} held-out images "
            f"keep their class ({100 * self.agreement:.1f} %, at least {100 * self.min_agreement:.0f} %), "
            f"median difference {median:.1e} of the largest output"
        )
        return f"{found}; {self.note}" if self.note else found


def check_int8(kind: str, kernels: str) -> None:
    """Check that a file can be quantized.

    Raises:
        UnsupportedError: the format, or the operators in it.
        MissingDependencyError: the quantizer is not installed.
    """
    if kind not in FORMATS:
        raise UnsupportedError(f"int8 quantizes ONNX and OpenVINO files, got a {kind} file; use .onnx or .xml")
    if kernels != "standard":
        raise UnsupportedError(f"int8 quantizes standard operators, got kernels={kernels!r}; leave out one of the two")
    if kind == "openvino":
        require("nncf", "quantize")
    else:
        require("onnxruntime.quantization", "export")


def read_calibration(preprocessing: Preprocessing, images: Sequence[str | Path]) -> tuple[Tensor, Tensor, list[str]]:
    """Return the images to calibrate with, the held-out images, both `[N, 3, H, W]`, and the names of the latter.

    Args:
        preprocessing: the model's.
        images: files, folders or patterns. At most 320 images are used, evenly spread, since folders are sorted by
            class.

    Raises:
        DataError: fewer than ten images, or one that cannot be read.
    """
    found = select_images(images)
    if len(found) < MIN_IMAGES:
        raise DataError(f"expected at least {MIN_IMAGES} images to calibrate int8 with, got {len(found)}; add images")
    count = min(len(found), MAX_IMAGES)
    used = [found[place * len(found) // count] for place in range(count)]
    tensors = [preprocessing(read_image(path)) for path in used]
    held_out = range(HELD_OUT - 1, count, HELD_OUT)
    calibration = [tensor for place, tensor in enumerate(tensors) if place not in held_out]
    return torch.stack(calibration), torch.stack(tensors[HELD_OUT - 1 :: HELD_OUT]), [used[i].name for i in held_out]


def quantize(
    file: Path, kind: str, network: nn.Module, images: tuple[Tensor, Tensor, list[str]], pixels: Preprocessing | None
) -> Quantized:
    """Replace a file in float32 by one in int8, and compare it with the model on the held-out images.

    Args:
        file: with OpenVINO, the `.xml`; its weights lie beside it.
        kind: "onnx" or "openvino".
        network: takes what the file takes.
        images: of `read_calibration`.
        pixels: the preprocessing, if the file takes pixels.
    """
    calibration, held_out, names = images
    if pixels is not None:
        calibration, held_out = to_pixels(calibration, pixels), to_pixels(held_out, pixels)
    opened = Opened.open(file)
    batch = 1 if opened.metadata is None or opened.metadata.batch is None else opened.metadata.batch
    del opened
    with _quiet():
        {"onnx": _quantize_onnx, "openvino": _quantize_openvino}[kind](file, list(_batches(calibration, batch)))
    found = verify(Opened.open(file), network, held_out, names, MAX_DIFFERENCE)
    note = processor_note()
    return Quantized(
        found.images, found.differences, found.agree, found.tolerance, calibration=len(calibration), note=note
    )


def processor_note(flags: Callable[[], str] | None = None) -> str:
    """Return a warning if this processor has no dot products of bytes; empty if it has, or if that is unknown.

    Args:
        flags: returns the processor's features, in the words of Linux; by default this one's.

    Example:
        >>> processor_note(lambda: "sse4_2 avx2 avx512_vnni")
        ''
        >>> processor_note(lambda: "sse4_2 avx2")
        'this processor has no VNNI or dot-product instructions: the file is smaller, but hardly faster here'
    """
    known = set((_processor_flags if flags is None else flags)().split())
    if not known or known & set(DOT_PRODUCTS):
        return ""
    return "this processor has no VNNI or dot-product instructions: the file is smaller, but hardly faster here"


def _processor_flags() -> str:
    """Return the flags of the first processor; empty except on Linux, since Apple's have dot products."""
    if platform.system() != "Linux":
        return ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")


def _batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Yield batches of a fixed size; the last one is filled up with its first image, which changes no range."""
    for part in x.split(size):
        yield torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]).contiguous()


def _quantize_onnx(file: Path, batches: list[Tensor]) -> None:
    """Quantize with ONNX Runtime: weights per channel with 7 bits, activations with 8.

    Products of signed and unsigned bytes are added in pairs in 16 bits on processors without VNNI, and saturate there:
    with 8 bits, a third of NAT's classes changed. With 7 bits they cannot. A file may run on any processor, so that
    does not depend on this one. Products of two activations, in attention, stay in float32.
    """
    onnx, tools = require("onnx", "export"), require("onnxruntime.quantization", "export")
    metadata = [(one.key, one.value) for one in onnx.load(str(file)).metadata_props]
    prepared = file.with_name("prepared.onnx")
    # The exporter has written all shapes, and the symbolic inference fails on some of SwiftFormer's.
    tools.shape_inference.quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(str(prepared)).graph
    weights = {one.name for one in graph.initializer}
    products = [one.name for one in graph.node if one.op_type == "MatMul" and not weights & set(one.input)]
    tools.quantize_static(
        str(prepared),
        str(file),
        _reader(tools.CalibrationDataReader, graph.input[0].name, batches),
        op_types_to_quantize=list(OPERATORS),
        per_channel=True,
        reduce_range=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        nodes_to_exclude=products,  # of attention; the option MatMulConstBOnly is for dynamic quantization
    )
    prepared.unlink()
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(file))


def _reader(base: Any, name: str, batches: list[Tensor]) -> Any:  # noqa: ANN401  # ONNX Runtime's classes
    """Return what gives ONNX Runtime the images."""
    given = iter(batches)

    class Reader(base):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(given, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()


def _quantize_openvino(file: Path, batches: list[Tensor]) -> None:
    """Quantize with NNCF, which knows the patterns of transformers and chooses the operators itself.

    Weights use half of the range of 8 bits, for the reason that `_quantize_onnx` gives.
    """
    nncf, openvino = require("nncf", "quantize"), require("openvino", "export")
    advanced = require("nncf.quantization.advanced_parameters", "quantize")
    model = openvino.Core().read_model(str(file))
    quantized = nncf.quantize(
        model,
        nncf.Dataset([batch.numpy() for batch in batches]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
        advanced_parameters=advanced.AdvancedQuantizationParameters(overflow_fix=advanced.OverflowFix.ENABLE),
    )
    beside = file.with_name("int8.xml")  # both models map the old file of the weights
    openvino.save_model(quantized, str(beside), compress_to_fp16=False)
    for one in (beside, beside.with_suffix(".bin")):
        one.replace(file.with_suffix(one.suffix))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the tools' messages below errors, and their progress bars."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
