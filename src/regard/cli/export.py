"""`regard export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from regard.cli.inference import Classes, find_model, read_classes
from regard.errors import OptionError
from regard.exporting import FORMATS, Exported, export
from regard.models import MODELS, create_model
from regard.training.classifier import Classifier

ENDINGS = {name: ending for ending, name in FORMATS.items()}
UNTRAINED = "none"


def export_model(
    model: Annotated[
        str,
        typer.Argument(
            help="The folder of a training run; or the name of a model, with --weights.", show_default=False
        ),
    ],
    kind: Annotated[
        str | None, typer.Option("--format", help=f"{', '.join(ENDINGS)}.", show_default="of the ending of --out")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help=f"As in `regard predict`; {UNTRAINED} for random ones.", show_default="the run's"),
    ] = None,
    classes: Classes = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file.", show_default="MODEL.onnx")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images.", show_default="the model's")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    dynamic: Annotated[str, typer.Option(help="Axes that every call chooses: batch, size, or batch,size.")] = "",
    kernels: Annotated[
        str, typer.Option(help="standard; or regard: its own operators, for ONNX Runtime and OpenVINO.")
    ] = "standard",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Take pixels in uint8 and return probabilities.")
    ] = False,
    portable: Annotated[bool, typer.Option("--portable", help="A pt2 file that does not need regard.")] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images, folders or patterns to verify with.", show_default="two photographs"),
    ] = None,
    int8: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Quantize, calibrated on these images, folders or patterns."),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="A pt2 file of machine code, which needs no compiler where it runs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export a model to ONNX, torch.export, OpenVINO or ExecuTorch, and verify the file on photographs.

    Example: regard export runs/digits --out digits.onnx --dynamic batch
    """
    if kind is not None and kind not in ENDINGS:
        raise OptionError.unknown("format", kind, ENDINGS)
    file = Path(Path(model).name + ENDINGS[kind or "onnx"]) if out is None else out
    if kind is not None and FORMATS.get(file.suffix.lower()) != kind:
        raise OptionError(f"format {kind!r} has the ending {ENDINGS[kind]}, got {str(file)!r}; change one of them")
    axes = [axis for axis in dynamic.split(",") if axis]
    result = export(
        _open(model, weights, read_classes(classes)),
        file,
        size=size,
        batch=batch,
        dynamic=axes,
        kernels=kernels,
        preprocess=preprocess,
        portable=portable,
        images=images,
        int8=int8,
        compile=compile,
    )
    if as_json:
        typer.echo(json.dumps({**asdict(result), "file": str(result.file)}))
    else:
        _show(result)


def _open(model: str, weights: str | None, classes: list[str] | None) -> Classifier:
    if weights != UNTRAINED:
        return Classifier.open(find_model(model, weights), weights, classes=classes)
    if model not in MODELS:
        raise OptionError.unknown("model", model, MODELS)
    network = create_model(model).eval()
    names = tuple(classes) if classes else tuple(map(str, range(network.num_classes)))
    return Classifier(model, UNTRAINED, network, network.preprocessing, names, {})


def _show(result: Exported) -> None:
    typer.echo(f"wrote {result.file} ({result.bytes / 1e6:.1f} MB) in {result.seconds:.0f} s")
    typer.echo(f"verified: {result.verification}")
