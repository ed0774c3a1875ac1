"""`regard look`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

from regard import explain
from regard.cli.inference import Weights, find_model
from regard.errors import OptionError
from regard.explain.looking import has_class_token, pick, require_class_token, seen_from
from regard.extras import require
from regard.models import Backbone
from regard.surgery import adapt
from regard.training import Classifier
from regard.training.images import read_image
from regard.training.output import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIAS = "bias"
TOKEN, CLASS_TOKEN, POOLED, ROLLOUT = "token", "class-token", "pooled", "rollout"
METHODS = (TOKEN, CLASS_TOKEN, POOLED, *explain.METHODS)
MAX_PANELS = 48
TALKING_HEADS = "talking_heads"


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
        typer.Option(
            help=f"One of {', '.join(METHODS)}.", show_default="token with --at, else all that explain a class"
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The pixel of the file whose token is asked where it looks.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Index of a layer, from the end if negative.", show_default="all")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="Index of a head, from the end if negative.", show_default="all")
    ] = None,
    unmixed: Annotated[
        bool,
        typer.Option(
            "--unmixed", help="Talking heads (CaiT): each head's softmax, before the second mix of the heads."
        ),
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="Name or number of the class to explain.", show_default="the predicted one")
    ] = None,
    score: Annotated[bool, typer.Option(help="Print how faithful each map is: deletion and insertion.")] = False,
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .svg or .pdf.")] = Path("look.png"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page, too, where a click picks the token.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="With bias: rows and columns of the tokens.", show_default="8x8"),
    ] = None,
    kernel: Annotated[
        int | None, typer.Option(help="With bias: side of window and neighborhood.", show_default="4")
    ] = None,
    query: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="With bias: the query.", show_default="0,0")
    ] = None,
    wrong: Annotated[bool, typer.Option(help="With bias: add the widely copied wrong index of NAT.")] = False,
) -> None:
    """Draw what a model looks at in an image, or how its relative biases are indexed.

    Example: regard look photo.jpg --model nat_mini --weights hf --at 120,80 --out look.png
    """
    explain.check_format(out)
    require("matplotlib.figure", extra="look")
    if html is not None and html.resolve() == out.resolve():
        raise OptionError(f"expected two files for --out and --html, got {str(out)!r} for both; change one of them")
    is_bias = image == BIAS and not Path(image).exists()
    of_image = {
        "--method": method,
        "--at": at,
        "--layer": layer,
        "--head": head,
        "--target": target,
        "--html": html,
        "--unmixed": unmixed or None,
        "--score": score or None,
    }
    of_bias = {"--grid": grid, "--kernel": kernel, "--query": query, "--wrong": wrong or None}
    if is_bias:
        _reject(of_image, "an image")
        if model is not None:
            _reject(of_bias, "bias without a model")
    else:
        _reject(of_bias, "bias")
    request = Request.parse(method, at, layer, head, target, not unmixed, score, html)
    with writing(out) as unfinished, nullcontext() if html is None else writing(html) as page:
        if is_bias:
            figure = _draw_bias(model, weights, grid or "8x8", 4 if kernel is None else kernel, query or "0,0", wrong)
        else:
            figure = _draw(image, Subject.open(image, model, weights, request.point), request, page)
        explain.save(figure, unfinished, out.suffix)
    for file in (out,) if html is None else (html, out):
        typer.echo(f"wrote {file}")


def _reject(options: Mapping[str, object], subject: str) -> None:
    """Raise an error if one of the options is given, which only a call with another subject reads."""
    for option, value in options.items():
        if value is not None:
            raise OptionError(f"expected {subject} with {option}, got another call; leave the option out")


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        method: one of `METHODS`; None draws all that explain a class.
        point: x and y of a pixel of the image file.
        layer: index of a layer; None draws all.
        head: index of a head; None draws all.
        target: name or number of a class; None is the predicted one.
        mixed: see `explain.attention_maps`.
        score: whether to print how faithful the maps are.
    """

    method: str | None
    point: tuple[float, float] | None
    layer: int | None
    head: int | None
    target: str | None
    mixed: bool
    score: bool

    @classmethod
    def parse(
        cls,
        method: str | None,
        at: str | None,
        layer: int | None,
        head: int | None,
        target: str | None,
        mixed: bool,
        score: bool,
        html: Path | None,
    ) -> Request:
        """Check the options, also against each other: none may be without effect."""
        if method is not None and method not in METHODS:
            raise OptionError.unknown("method", method, METHODS)
        point = None if at is None else _pair(at, "--at", ",")
        if method is None and point is not None:
            method = TOKEN
        if method == TOKEN and point is None:
            raise OptionError("expected a pixel for --method token, got none; add --at X,Y")
        by_head, by_class = (TOKEN, CLASS_TOKEN), (None, *explain.METHODS)
        for option, is_given, methods in (
            ("--at", point is not None, (TOKEN, ROLLOUT)),
            ("--layer", layer is not None, by_head),
            ("--head", head is not None, by_head),
            ("--unmixed", not mixed, (*by_head, method) if html is not None else by_head),
            ("--target", target is not None, by_class),
            ("--score", score, by_class),
        ):
            if is_given and method not in methods:
                chosen = "all methods that explain a class" if method is None else f"--method {method}"
                named = [f"--method {one}" for one in methods if one is not None]
                raise OptionError(f"expected a method that {option} affects, got {chosen}; add {' or '.join(named)}")
        return cls(method, point, layer, head, target, mixed, score)


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
    def open(
        cls, image: str | None, model: str | None, weights: str | None, point: tuple[float, float] | None = None
    ) -> Subject:
        """Open a model, and an image if there is one, in which the point must lie."""
        if model is None:
            raise OptionError("expected a model, got none; add --model NAME --weights WEIGHTS, or --run FOLDER")
        picture = None if image is None else read_image(image)
        if picture is not None and point is not None:
            width, height = picture.size
            if not (0 <= point[0] < width and 0 <= point[1] < height):
                raise OptionError(
                    f"expected --at X,Y in the image, 0 <= X < {width} and 0 <= Y < {height}, got "
                    f"{point[0]:g},{point[1]:g}"
                )
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


def _draw(image: str, subject: Subject, request: Request, page: Path | None) -> Figure:
    point = None if request.point is None else subject.locate(*request.point)
    network, pixels, classes = subject.classifier.model, subject.pixels, subject.classifier.classes
    chosen = _class_of(request.target, classes)
    if request.method in (TOKEN, CLASS_TOKEN):
        maps = _token_maps(network, pixels, point, request)
        heads = "" if request.mixed else ", heads not mixed after the softmax"
        title = ("where the class token looks" if point is None else f"where the token at {_at(request)} looks") + heads
    elif request.method == POOLED:
        maps = {name: found[0].mean(0) for name, found in explain.token_weights(network, pixels).items()}
        if not maps:
            raise OptionError(
                f"expected a model with additive, efficient additive or separable attention for --method {POOLED}, got "
                f"{subject.classifier.name}, which has none; use --at X,Y"
            )
        title = "weights of the tokens in each layer's context"
    elif point is not None:
        maps = {ROLLOUT: explain.rollout(network, pixels, point=point)[0]}
        title = f"what can have reached the token at {_at(request)}"
    else:
        names = list(explain.METHODS) if request.method is None else [request.method]
        maps = {name: explain.explain(network, pixels, name, chosen)[0] for name in names}
        with torch.no_grad():
            shown = int(network(pixels).argmax()) if chosen is None else chosen
        title = f"what speaks for {classes[shown]}" if classes else "what matters"
        if request.score:
            _print_scores(subject, maps, shown)
    if page is not None:
        explain.write_page(page, subject.shown, _maps(network, pixels, request.mixed), Path(image).name)
    return explain.overlay(subject.shown, maps, f"{subject.classifier.name}: {title}", point)


def _at(request: Request) -> str:
    assert request.point is not None
    return ",".join(f"{one:g}" for one in request.point)


def _maps(network: torch.nn.Module, pixels: Tensor, mixed: bool) -> list[explain.AttentionMap]:
    found = explain.attention_maps(network, pixels, mixed=mixed)
    if not mixed and not any(one.mechanism == TALKING_HEADS for one in found):
        raise OptionError(
            f"expected a model with talking heads for --unmixed, got {type(network).__name__}, which has none; leave "
            "the option out"
        )
    return found


def _token_maps(
    network: torch.nn.Module, pixels: Tensor, point: tuple[float, float] | None, request: Request
) -> dict[str, Tensor]:
    """Return one panel per layer and head; of many layers, some at equal distances."""
    size = (pixels.shape[2], pixels.shape[3])
    found = _maps(network, pixels, request.mixed)
    if point is None:
        require_class_token(network, found, size)
    chosen = found
    if request.layer is not None:
        chosen = [found[pick("layer", request.layer, len(found))]]
    if point is None:
        chosen = [one for one in chosen if has_class_token(one, size)]
        if not chosen:
            with_token = [place for place, one in enumerate(found) if has_class_token(one, size)]
            raise OptionError(
                f"layer must be one with a class token, {with_token[0]} to {with_token[-1]}, got {request.layer}"
            )
    heads = max(one.weights.shape[1] for one in chosen) if request.head is None else 1
    panels: dict[str, Tensor] = {}
    for attention in chosen[:: -(-len(chosen) * heads // MAX_PANELS)]:
        weights = seen_from(attention, size, point)[0]
        shown = range(len(weights)) if request.head is None else [pick("head", request.head, len(weights))]
        for one in shown:
            panels[f"{attention.layer} head {one}"] = weights[one]
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
        return explain.bias_grids(kernel, _whole(grid, "--grid", "x"), _whole(query, "--query", ","), wrong)
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


def _whole(text: str, option: str, separator: str) -> tuple[int, int]:
    first, second = _pair(text, option, separator)
    if not (first.is_integer() and second.is_integer()):
        raise OptionError(f"expected two whole numbers for {option}, as in 3{separator}4, got {text!r}")
    return int(first), int(second)
