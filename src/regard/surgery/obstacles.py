"""Why a module is better left alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

WRAPPERS: Mapping[str, str] = {
    "OptimizedModule": "it is compiled; call fuse first, then torch.compile",
    "DistributedDataParallel": "it is wrapped for distributed training; call fuse first",
    "FullyShardedDataParallel": "its parameters are sharded; call fuse first",
}
"""Classes, by name, whose insides belong to somebody else."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
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
            closed = "it is a TorchScript module; call fuse before scripting"
        elif module._compiled_call_impl is not None:
            closed = WRAPPERS["OptimizedModule"]
        yield path, module, closed
        children = [(f"{path}.{name}" if path else name, child, closed) for name, child in module.named_children()]
        stack.extend(reversed(children))


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
    if "forward" in vars(module):
        return "somebody has replaced its forward on the object"
    for name, part in module.named_modules():
        whose = f"its {name}" if name else "it"
        if _is_quantised(part):
            return f"{whose} is quantised"
        if "parametrizations" in part._modules:
            return f"{whose} has a parametrization"
        if any(_foreign_hooks(getattr(part, hooks)) for hooks in HOOKS):
            return f"{whose} has hooks, which expect the original calls"
        if name and type(part).__module__.partition(".")[0] not in (home, "torch", "regard"):
            return f"{whose} is a {type(part).__module__}.{type(part).__qualname__}"
    return sharing.reason(module)


def overridden(kind: type[nn.Module], known: type[nn.Module]) -> str:
    """Say what a subclass changes of the class that we know; empty if it changes its construction at most."""
    bases = kind.__mro__[: kind.__mro__.index(known)]
    changed = sorted({name for base in bases for name in vars(base) if not name.startswith("__")})
    return f"it is a subclass of {known.__qualname__} that changes {', '.join(changed)}" if changed else ""


def _is_quantised(part: nn.Module) -> bool:
    if "quant" in type(part).__module__ or type(part).__module__.startswith("bitsandbytes"):
        return True
    return any(
        type(tensor.data) is not Tensor or not (tensor.is_floating_point() or tensor.is_complex())
        for tensor in part.parameters(recurse=False)
    )


def _foreign_hooks(hooks: Mapping[int, object]) -> bool:
    return any(getattr(hook, "__module__", "") != HARMLESS for hook in hooks.values())
