"""Comparing the outputs of a model before and after a change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.surgery.inspection import Upstream

Example = Tensor | Sequence[Any] | Mapping[str, Any]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of one call, by place and by name."""

EXAMPLE_HINT = "pass a batch as example="


def rounding_tolerance(outputs: Iterable[Tensor], module: nn.Module) -> float:
    """Return the difference, relative to the largest output, that rounding explains: 1e-5 in float32.

    The dtypes of the parameters count too, since a float32 output may have been computed in fewer bits.
    """
    dtypes = {tensor.dtype for tensor in (*outputs, *module.parameters()) if tensor.is_floating_point()}
    eps = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
    return min(1e-5 * eps / torch.finfo(torch.float32).eps, 0.05)


def random_example(model: nn.Module) -> Tensor | str:
    """Draw two random images of the size that a model expects, or return why that size is unknown."""
    parameter = next((one for one in model.parameters() if one.is_floating_point()), None)
    if parameter is None:
        return "the model has no parameters"
    if parameter.device.type == "meta":
        return "the model is on the meta device"
    size = _image_size(cast(Upstream, model))
    if size is None:
        return f"its image size is not known; {EXAMPLE_HINT}"
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *size, generator=generator, device="cpu").to(parameter.device, parameter.dtype)


def _image_size(model: Upstream) -> tuple[int, int, int] | None:
    """Return channels, height and width from a model's configuration; None if it has none."""
    config = getattr(model, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if channels is None or size is None:
        timm_config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        if not timm_config or "input_size" not in timm_config:
            return None
        channels, *size = timm_config["input_size"]
        first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
        channels = channels if first is None else first.in_channels
        size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def run_example(model: nn.Module, example: Example) -> list[Tensor]:
    """Evaluate a model on a copy of `example` and list the tensors that it returns; its state does not change."""
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        args, kwargs = arguments(example)
        return floating_tensors(model(*args, **kwargs))


def arguments(example: Example) -> Arguments:
    """Return a copy of an example as the arguments of a call."""
    batch = clone(example)
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return tuple(cast(Sequence[Any], batch)), {}


def relative_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest output; infinite if shapes differ or values are not finite."""
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
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of a model in evaluation mode, and restore modes and buffers afterwards.

    Neither `eval` nor `train` is called: some upstream layers merge weights there, which several models may share.
    """
    with preserved(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of a model afterwards."""
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, mode, buffers in modules:
            module.training = mode
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in values:
            if not torch.equal(buffer, value):  # an unchanged buffer keeps its version, for pending backward passes
                with torch.no_grad():
                    buffer.copy_(value)


def floating_tensors(value: object) -> list[Tensor]:
    """List the floating-point tensors in a module's output."""
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


def clone(value: object) -> object:
    """Return a value with copies of the tensors in it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: clone(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(map(clone, value))
    return value
