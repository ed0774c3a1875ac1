"""What stands against changing a module: hooks, tied or quantized weights, subclasses, wrappers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from regard.dense import call_obstacle, has_hooks

if TYPE_CHECKING:

    class Upstream(nn.Module):
        """A module of timm or transformers, whose attributes have no types that regard could import."""

        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401

else:
    Upstream = nn.Module

WRAPPERS: Mapping[str, str] = {
    "OptimizedModule": "it is compiled; call fuse first, then torch.compile",
    "DistributedDataParallel": "it is wrapped for distributed training; call fuse first",
    "FullyShardedDataParallel": "its parameters are sharded; call fuse first",
}
"""Names of wrapper classes whose contents must not change, with the reason."""

TRANSFORMERS_HOOKS = "transformers.utils.output_capturing"
"""Where transformers defines hooks that it installs itself; they get from an adapter what they expect."""

PLAIN_LAYERS = {
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "timm.layers.conv2d_same.Conv2dSame",
    "timm.layers.linear.Linear",
    "timm.layers.norm_act.BatchNormAct2d",
    "regard.dense.packed.PackedLinear",
    "regard.dense.packed.PackedConv2d",
    "regard.dense.panels.PanelLinear",
    "regard.dense.panels.PanelConv2d",
    "regard.dense.depthwise.DepthwiseConv2d",
}
"""Layers whose weights define what they compute; other classes standardize, quantize or reparametrize them."""


def class_name(kind: type[nn.Module]) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def find_base(kind: type[nn.Module], names: Collection[str]) -> type[nn.Module] | None:
    """Return the first class with one of the full `names` among a class and its bases; None if there is none."""
    return next((base for base in kind.__mro__ if class_name(base) in names), None)


def walk(model: nn.Module) -> Iterator[tuple[str, Upstream, str]]:
    """Yield the path of every module, the module, and why it must not change if a wrapper around it says so."""
    stack: list[tuple[str, nn.Module, str]] = [("", model, "")]
    seen = set()
    while stack:
        path, module, blocked = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if not blocked:
            blocked = WRAPPERS.get(type(module).__name__, "")
        if isinstance(module, torch.jit.ScriptModule):
            blocked = "it is a TorchScript module; call fuse before torch.jit.trace"
        elif module._compiled_call_impl is not None:
            blocked = WRAPPERS["OptimizedModule"]
        yield path, cast(Upstream, module), blocked
        children = [(f"{path}.{name}" if path else name, child, blocked) for name, child in module.named_children()]
        stack.extend(reversed(children))


def walk_unblocked(model: nn.Module, blocked: Collection[str]) -> list[tuple[str, Upstream]]:
    """List the modules that may change, with their paths.

    Args:
        model: any module.
        blocked: paths whose modules must not change either. A copy of a compiled module no longer shows that it is.
    """
    return [
        (path, module)
        for path, module, reason in walk(model)
        if not reason and not any(f"{path}.".startswith(f"{one}.") for one in blocked)
    ]


class Sharing:
    """The parameters that a model uses in more than one place."""

    def __init__(self, model: nn.Module) -> None:
        names = defaultdict(list)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names[id(parameter)].append(name)
        self.names = {key: places for key, places in names.items() if len(places) > 1}

    def reason(self, module: nn.Module) -> str:
        """Return which parameter of a module is tied; empty if none is."""
        for parameter in module.parameters():
            if id(parameter) in self.names:
                first, second, *_ = self.names[id(parameter)]
                return f"its weights are tied: {first} is {second}"
        return ""


def obstacle(module: nn.Module, package: str, sharing: Sharing) -> str:
    """Return why a module, or a part of it, must keep its own forward; empty if there is no reason.

    Args:
        module: the attention.
        package: the package that defines its class. Parts from another package, such as LoRA layers, are a reason.
        sharing: the tied parameters of the whole model.
    """
    for name, part in module.named_modules():
        subject = f"its {name}" if name else "it"
        reason = _special_weights(part) or call_obstacle(part, TRANSFORMERS_HOOKS)
        if reason:
            return f"{subject} {reason}"
        if name and type(part).__module__.partition(".")[0] not in (package, "torch", "regard"):
            return f"{subject} is a {class_name(type(part))}"
    return sharing.reason(module)


def overridden(kind: type[nn.Module], known: type[nn.Module]) -> str:
    """Return what a subclass changes of a known class; empty if it changes only how it is constructed."""
    bases = kind.__mro__[: kind.__mro__.index(known)]
    changed = {name for base in bases for name in vars(base) if not name.startswith("__") or name == "__call__"}
    return f"is a subclass of {known.__qualname__} that changes {', '.join(sorted(changed))}" if changed else ""


def patched(module: nn.Module) -> str:
    """Return which methods of a module are replaced on the object; empty if none is."""
    names = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    return f"has {', '.join(names)} replaced on the object" if names else ""


def is_plain(module: object, kind: type[nn.Module]) -> bool:
    """Whether a module is a layer of class `kind`, computes what its weights say, and has no hooks."""
    return isinstance(module, kind) and class_name(type(module)) in PLAIN_LAYERS and not has_hooks(module)


def needs_weights(dropout: nn.Module) -> bool:
    """Whether a dropout must be called with the attention weights: it is active, was replaced, or has hooks."""
    return type(dropout) is not nn.Dropout or (dropout.training and dropout.p > 0) or has_hooks(dropout)


def _special_weights(part: nn.Module) -> str:
    """Return what is special about a module's own weights; empty if nothing is."""
    if "quant" in type(part).__module__ or type(part).__module__.startswith("bitsandbytes"):
        return "is quantized"
    for tensor in part.parameters(recurse=False):
        kind = type(tensor.data)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return "is quantized"
        if kind is not Tensor:
            return f"has weights of type {kind.__module__}.{kind.__qualname__}"
    return ""
