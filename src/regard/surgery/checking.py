"""Comparing a model before and after: on which input, and how exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Example = Tensor | Sequence[Any] | Mapping[str, Any]

HOW = "pass a batch as example="


def tolerance_of(outputs: Sequence[Tensor]) -> float:
    """Return the difference, over the largest output, that rounding explains: 1e-5 in float32."""
    eps = max((torch.finfo(output.dtype).eps for output in outputs), default=0.0)
    return min(1e-5 * eps / torch.finfo(torch.float32).eps, 0.05)


def make_example(model: nn.Module) -> Tensor | str:
    """Draw two random images of the size that a model was made for, or say why that size is unknown."""
    parameter = next((one for one in model.parameters() if one.is_floating_point()), None)
    if parameter is None:
        return "the model has no parameters"
    if parameter.device.type == "meta":
        return "the model is on the meta device"
    size = _image_size(model)
    if size is None:
        return f"its image size is not known; {HOW}"
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *size, generator=generator).to(parameter.device, parameter.dtype)


def _image_size(model: Any) -> tuple[int, int, int] | None:  # noqa: ANN401
    config = getattr(model, "config", None)
    channels, side = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if channels is None or side is None:
        described = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        if not described or "input_size" not in described:
            return None
        channels, *side = described["input_size"]
        first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
        channels = channels if first is None else first.in_channels
        side = getattr(getattr(model, "patch_embed", None), "img_size", None) or side
    height, width = (side, side) if isinstance(side, int) else side
    return channels, height, width


def run(model: nn.Module, example: Example) -> list[Tensor]:
    """Evaluate a model and list the tensors that it returns; nothing of its state changes."""
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        if isinstance(example, Tensor):
            return tensors(model(example))
        return tensors(model(**example) if isinstance(example, Mapping) else model(*example))


def compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest output; infinite where shapes or NaNs differ."""
    if [one.shape for one in before] != [one.shape for one in after]:
        return math.inf
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if not old.numel():
            continue
        difference = float((new.double() - old.double()).abs().max())
        largest = float(old.double().abs().max())
        relative = difference / largest if largest > 0 else difference
        worst = max(worst, relative if math.isfinite(relative) else math.inf)
    return worst


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def tensors(value: object) -> list[Tensor]:
    """List the floating-point tensors in what a module returned."""
    return list(_walk(value))


def _walk(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _walk(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _walk(each)
