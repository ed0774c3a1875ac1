"""`regard info`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from regard.cli.tables import Table, show
from regard.errors import OptionError
from regard.layers import Blocks, Stage
from regard.models import MODELS, Backbone, create_model


@dataclass
class Layer:
    """A row of the table: a module, or a parameter of the model itself, and its output shape."""

    name: str
    kind: str
    parameters: int
    output: str = ""


def info(
    name: Annotated[str, typer.Argument(help="A name from `regard models`.", show_default=False)],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image in pixels.", show_default="the model's own")
    ] = None,
) -> None:
    """Show the layers of a model with their output shapes, parameters and multiply-adds for one image.

    Nothing is computed. The parameters of a stage are those of the blocks below it.

    Example: regard info nat_mini --image-size 384
    """
    if name not in MODELS and Path(name).exists():
        raise OptionError(
            f"expected a model's name, got the path {name}; `regard convert` says which model a file holds"
        )
    with torch.device("meta"):
        model = create_model(name).eval()
    size = MODELS[name].image_size if image_size is None else image_size
    layers, macs = trace(model, size)
    headings = ("layer", "kind", "output", "parameters")
    table = Table(*headings, title=f"{name}, one image of {size} x {size} pixels", whole=headings, right=headings[3:])
    for layer in layers:
        table.add(layer.name, layer.kind, layer.output, f"{layer.parameters:,}")
    show(table)
    typer.echo(f"{_count(model):,} parameters, {macs / 1e9:.3g} G multiply-adds")


def trace(model: Backbone[Any], size: int) -> tuple[list[Layer], int]:
    """Run a model on the meta device with an image that has a shape but no values.

    Returns:
        The layers in their order in the model, and the multiply-adds.
    """
    tokens = model.named_parameters(recurse=False)
    layers = [Layer(name, "Parameter", each.numel(), str(list(each.shape))) for name, each in tokens]
    hooks = []
    for depth, name, module in _layers(model):
        layer = Layer("  " * depth + name, type(module).__name__, _count(module))
        layers.append(layer)
        hooks.append(module.register_forward_hook(_recorder(layer)))
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, model.in_chans, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return layers, counter.get_total_flops() // 2


def _recorder(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer.output = str(list(output.shape))

    return record


def _layers(model: Backbone[Any]) -> Iterator[tuple[int, str, nn.Module]]:
    """Yield the modules to show with their depth: stem, stages with their blocks, norm and heads."""
    for name, child in model.named_children():
        if not isinstance(child, nn.ModuleList | Blocks):
            yield 0, name, child
            continue
        for index, step in child.named_children():
            yield 0, f"{name}.{index}", step
            if isinstance(step, Stage | Blocks):
                yield from _blocks(step, f"{name}.{index}")


def _blocks(stage: Stage | Blocks, prefix: str) -> Iterator[tuple[int, str, nn.Module]]:
    if isinstance(stage, Stage) and not isinstance(stage.downsample, nn.Identity):
        yield 1, f"{prefix}.downsample", stage.downsample
    blocks, prefix = (stage.blocks, f"{prefix}.blocks") if isinstance(stage, Stage) else (stage, prefix)
    for index, block in blocks.named_children():
        yield 1, f"{prefix}.{index}", block


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
