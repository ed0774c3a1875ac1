"""Comparing a model before and after: on which input, and how exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Example = Tensor | Sequence[Any] | Mapping[str, Any]

HOW = "pass a batch as example="


def tolerance_of(outputs: Iterable[Tensor], module: nn.Module) -> float:
    """Return the difference, over the largest output, that rounding explains: 1e-5 in float32.

    What comes out in float32 may have been computed in less, so the parameters count too.
    """
    kinds = {tensor.dtype for tensor in (*outputs, *module.parameters()) if tensor.is_floating_point()}
    eps = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
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
    return torch.randn(2, *size, generator=generator, device="cpu").to(parameter.device, parameter.dtype)


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
    """Evaluate a model on a copy of the example and list the tensors that it returns; nothing of its state changes."""
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        batch = _clone(example)
        if isinstance(batch, Tensor):
            return tensors(model(batch))
        return tensors(model(**batch) if isinstance(batch, Mapping) else model(*batch))


def compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest output; infinite where shapes differ or values are not finite."""
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
    """Mark every module of a model as evaluating, and put modes and buffers back afterwards.

    Neither `eval` nor `train` is called: layers of others merge weights there, which several models may share.
    """
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    for module, _, _ in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode, buffers in modules:
            module.training = mode
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in values:
            if not torch.equal(buffer, value):  # a buffer that stays keeps its version, for backward passes under way
                with torch.no_grad():
                    buffer.copy_(value)


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


def _clone(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _clone(each) for key, each in value.items()}
    return type(value)(map(_clone, value)) if type(value) in (tuple, list) else value
