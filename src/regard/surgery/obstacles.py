"""Why a module is better left alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from regard.onednn import altered

WRAPPERS: Mapping[str, str] = {
    "OptimizedModule": "it is compiled; call fuse first, then torch.compile",
    "DistributedDataParallel": "it is wrapped for distributed training; call fuse first",
    "FullyShardedDataParallel": "its parameters are sharded; call fuse first",
}
"""Classes, by name, whose insides belong to somebody else."""

HARMLESS = "transformers.utils.output_capturing"
"""Where hooks come from that transformers installs itself, and which get what they expect."""


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield every module with its path and, where it is inside of something closed, the reason to leave it."""
    stack: list[tuple[str, nn.Module, str]] = [("", model, "")]
    seen = set()
    while stack:
        path, module, closed = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if not closed:
            closed = WRAPPERS.get(type(module).__name__, "")
        if isinstance(module, torch.jit.ScriptModule):
            closed = "it is a TorchScript module; call fuse before torch.jit.trace"
        elif module._compiled_call_impl is not None:
            closed = WRAPPERS["OptimizedModule"]
        yield path, module, closed
        children = [(f"{path}.{name}" if path else name, child, closed) for name, child in module.named_children()]
        stack.extend(reversed(children))


def walk_open(model: nn.Module, closed: Collection[str]) -> list[tuple[str, nn.Module]]:
    """List the modules that are inside of nothing closed, nor at a path that is: copies of compiled modules are not."""
    return [
        (path, module)
        for path, module, reason in walk(model)
        if not reason and not any(f"{path}.".startswith(f"{one}.") for one in closed)
    ]


class Sharing:
    """Which parameters of a model stand at several places."""

    def __init__(self, model: nn.Module) -> None:
        names = defaultdict(list)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names[id(parameter)].append(name)
        self.names = {key: places for key, places in names.items() if len(places) > 1}

    def reason(self, module: nn.Module) -> str:
        """Say which parameter of a module is tied, or nothing."""
        for parameter in module.parameters():
            if id(parameter) in self.names:
                first, second, *_ = self.names[id(parameter)]
                return f"its weights are tied: {first} is {second}"
        return ""


def obstacle(module: nn.Module, home: str, sharing: Sharing) -> str:
    """Say why a module, or what it is made of, must keep its own forward; empty if nothing speaks against it.

    Args:
        module: the attention.
        home: the package that its class comes from; parts of other packages, such as adapters of low rank, are foreign.
        sharing: the tied parameters of the whole model.
    """
    for name, part in module.named_modules():
        whose = f"its {name}" if name else "it"
        reason = _weights(part) or altered(part, HARMLESS)
        if reason:
            return f"{whose} {reason}"
        if name and type(part).__module__.partition(".")[0] not in (home, "torch", "regard"):
            return f"{whose} is a {type(part).__module__}.{type(part).__qualname__}"
    return sharing.reason(module)


def overridden(kind: type[nn.Module], known: type[nn.Module]) -> str:
    """Say what a subclass changes of the class that we know; empty if it changes its construction at most."""
    bases = kind.__mro__[: kind.__mro__.index(known)]
    changed = {name for base in bases for name in vars(base) if not name.startswith("__") or name == "__call__"}
    return f"is a subclass of {known.__qualname__} that changes {', '.join(sorted(changed))}" if changed else ""


def patched(module: nn.Module) -> str:
    """Say which methods of a module somebody has replaced on the object; empty if none."""
    names = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    return f"has {', '.join(names)} replaced on the object" if names else ""


def _weights(part: nn.Module) -> str:
    """Say what makes a module's own weights special; empty if nothing."""
    if "quant" in type(part).__module__ or type(part).__module__.startswith("bitsandbytes"):
        return "is quantized"
    for tensor in part.parameters(recurse=False):
        kind = type(tensor.data)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return "is quantized"
        if kind is not Tensor:
            return f"has weights of type {kind.__module__}.{kind.__qualname__}"
    return ""
