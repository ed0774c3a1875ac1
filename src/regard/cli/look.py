"""`regard look`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

from regard import explain
from regard.cli.inference import Weights, find_model
from regard.errors import OptionError
from regard.models import Backbone
from regard.surgery import adapt
from regard.training import Classifier
from regard.training.images import read_image
from regard.training.output import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIAS = "bias"
TOKEN, POOLED = "token", "pooled"
METHODS = (TOKEN, POOLED, *explain.METHODS)
MAX_PANELS = 48


def look(
    image: Annotated[str, typer.Argument(help="An image file; or the word bias, to draw relative position biases.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "--run", help="A training run, or the name of a model of regard or timm with --weights."
        ),
    ] = None,
    weights: Weights = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(METHODS)}.", show_default="token with --at, else all but token"),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The pixel of the file whose token is asked where it looks.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Index of a layer, from the end if negative.", show_default="all")
    ] = None,
    head: Annotated[int | None, typer.Option(help="Index of a head.", show_default="all")] = None,
    target: Annotated[
        str | None, typer.Option(help="Name or number of the class to explain.", show_default="the predicted one")
    ] = None,
    score: Annotated[bool, typer.Option(help="Print how faithful each map is: deletion and insertion.")] = False,
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .svg or .pdf.")] = Path("look.png"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page, too, where a click picks the token.")
    ] = None,
    grid: Annotated[str, typer.Option(metavar="HxW", help="With bias: rows and columns of the tokens.")] = "8x8",
    kernel: Annotated[int, typer.Option(help="With bias: side of window and neighborhood.")] = 4,
    query: Annotated[str, typer.Option(metavar="ROW,COLUMN", help="With bias: the query.")] = "0,0",
    wrong: Annotated[bool, typer.Option(help="With bias: add the widely copied wrong index of NAT.")] = False,
) -> None:
    """Draw what a model looks at in an image, or how its relative biases are indexed.

    Example: regard look photo.jpg --model nat_mini --weights hf --at 120,80 --out look.png
    """
    explain.check_format(out)
    with writing(out) as unfinished:
        if image == BIAS and not Path(image).exists():
            figure = _draw_bias(model, weights, grid, kernel, query, wrong)
        else:
            figure = _draw(image, model, weights, method, at, layer, head, target, score, html)
        explain.save(figure, unfinished, out.suffix)
    typer.echo(f"wrote {out}")


@dataclass(frozen=True)
class Subject:
    """A model and one image for it.

    Attributes:
        classifier: the model, its attention served by regard.
        pixels: the image as the model sees it, `[1, 3, S, S]`.
        shown: the same image for display, values from 0 to 1, `[3, S, S]`.
        size: width and height of the image file.
    """

    classifier: Classifier
    pixels: Tensor
    shown: Tensor
    size: tuple[int, int]

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Return where a pixel of the file is in `pixels`."""
        place = self.classifier.preprocessing.locate(x, y, self.size)
        if not all(0 <= one < self.pixels.shape[2] for one in place):
            raise OptionError(
                f"expected a pixel that the model sees, got {x:g},{y:g} of an image of {self.size[0]} x {self.size[1]} "
                "pixels, from which it sees the central square at most"
            )
        return place

    @classmethod
    def open(cls, image: str | None, model: str | None, weights: str | None) -> Subject:
        """Open a model, and an image if there is one."""
        if model is None:
            raise OptionError("expected a model, got none; add --model NAME --weights WEIGHTS, or --run FOLDER")
        picture = None if image is None else read_image(image)
        classifier = Classifier.open(find_model(model, weights), weights)
        if not isinstance(classifier.model, Backbone):
            adapt(classifier.model, inplace=True)
        given = classifier.preprocessing
        size = given.image_size
        pixels = torch.zeros(3, size, size) if picture is None else given(picture)
        mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
        shown = (pixels * std + mean).clamp(0, 1)
        return cls(
            classifier, pixels[None].to(classifier.device), shown, (size, size) if picture is None else picture.size
        )


def _draw(
    image: str,
    model: str | None,
    weights: str | None,
    method: str | None,
    at: str | None,
    layer: int | None,
    head: int | None,
    target: str | None,
    score: bool,
    html: Path | None,
) -> Figure:
    if method is not None and method not in METHODS:
        raise OptionError.unknown("method", method, METHODS)
    point = None if at is None else _pair(at, "--at", ",")
    if method == TOKEN and point is None:
        raise OptionError("expected a pixel for --method token, got none; add --at X,Y")
    subject = Subject.open(image, model, weights)
    point = None if point is None else subject.locate(*point)
    network, pixels, classes = subject.classifier.model, subject.pixels, subject.classifier.classes
    chosen = _class_of(target, classes)
    if method == TOKEN or (method is None and point is not None):
        assert point is not None
        maps = _token_maps(network, pixels, point, layer, head)
        title = f"where the token at {at} looks"
    elif method == POOLED:
        maps = {name: found[0].mean(0) for name, found in explain.token_weights(network, pixels).items()}
        title = "weights of the tokens in each layer's context"
    else:
        names = list(explain.METHODS) if method is None else [method]
        maps = {name: explain.explain(network, pixels, name, chosen)[0] for name in names}
        with torch.no_grad():
            shown = int(network(pixels).argmax()) if chosen is None else chosen
        title = f"what speaks for {classes[shown]}" if classes else "what matters"
        if score:
            _print_scores(subject, maps, shown)
    if html is not None:
        with writing(html) as unfinished:
            explain.write_page(unfinished, subject.shown, explain.attention_maps(network, pixels), Path(image).name)
        typer.echo(f"wrote {html}")
    return explain.overlay(subject.shown, maps, f"{subject.classifier.name}: {title}", point)


def _token_maps(
    network: torch.nn.Module, pixels: Tensor, point: tuple[float, float], layer: int | None, head: int | None
) -> dict[str, Tensor]:
    """Return one panel per layer and head; of many layers, some at equal distances."""
    found = explain.attention_maps(network, pixels)
    indices: Sequence[int] = range(len(found)) if layer is None else [layer]
    panels: dict[str, Tensor] = {}
    every = 1
    heads = max(one.weights.shape[1] for one in found)
    if layer is None:
        every = -(-len(found) * (1 if head is not None else heads) // MAX_PANELS)
    for index in indices[::every]:
        weights = explain.look_from(network, pixels, *point, layer=index)[0]
        shown = range(len(weights)) if head is None else [head]
        for one in shown:
            if not -len(weights) <= one < len(weights):
                raise OptionError(f"head must be one of the {len(weights)} of this layer, got {one}")
            panels[f"{found[index].layer} head {one}"] = weights[one]
    return panels


def _print_scores(subject: Subject, maps: Mapping[str, Tensor], target: int) -> None:
    pixels = subject.pixels
    baselines = {"center": explain.center_map(pixels)[0], "random": explain.random_map(pixels)[0]}
    for name, found in {**maps, **baselines}.items():
        result = explain.faithfulness(
            subject.classifier.model, pixels, found[None], torch.tensor([target], device=pixels.device)
        )
        typer.echo(
            f"{name:20} deletion {float(result.deletion_area):.3f}  insertion {float(result.insertion_area):.3f}"
        )


def _draw_bias(model: str | None, weights: str | None, grid: str, kernel: int, query: str, wrong: bool) -> Figure:
    if model is None:
        rows, columns = _pair(grid, "--grid", "x")
        row, column = _pair(query, "--query", ",")
        return explain.bias_grids(kernel, (int(rows), int(columns)), (int(row), int(column)), wrong)
    subject = Subject.open(None, model, weights)
    tables = explain.bias_tables(subject.classifier.model, subject.pixels)
    if not tables:
        raise OptionError(f"expected a model with relative biases, got {subject.classifier.name}, which has none")
    return explain.bias_sheet(tables, f"{subject.classifier.name}: relative biases, key minus query")


def _class_of(target: str | None, classes: Sequence[str]) -> int | None:
    if target is None:
        return None
    if target in classes:
        return list(classes).index(target)
    if target.isdecimal() and int(target) < len(classes):
        return int(target)
    raise OptionError.unknown("class", target, classes)


def _pair(text: str, option: str, separator: str) -> tuple[float, float]:
    parts = text.split(separator)
    try:
        first, second = map(float, parts)
    except ValueError:
        raise OptionError(f"expected two numbers for {option}, as in 3{separator}4, got {text!r}") from None
    return first, second
