"""Whether a call of a module runs more than the forward of its class."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def call_obstacle(module: nn.Module, ignored_hooks: str = "") -> str:
    """Return why `module` must be called instead of reading its weights; empty if there is no reason.

    Args:
        module: any module.
        ignored_hooks: name of a Python module; hooks that are defined there are no reason.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> call_obstacle(layer)
        ''
        >>> handle = layer.register_forward_hook(print)
        >>> call_obstacle(layer)
        'has hooks, which expect the original calls'
    """
    own = vars(module)
    if "forward" in own:
        return "has a forward that was assigned to the object"
    if own.get("_compiled_call_impl") is not None:
        return "is compiled; call fuse first, then torch.compile"
    if "parametrizations" in own["_modules"]:
        return "has a parametrization"
    for hooks in HOOKS:
        if own[hooks] and any(getattr(hook, "__module__", "") != ignored_hooks for hook in own[hooks].values()):
            return "has hooks, which expect the original calls"
    return ""


def does_nothing(module: nn.Module) -> bool:
    """Whether a call of `module` returns its input: an identity, or a dropout that is off; without hooks.

    Example:
        >>> does_nothing(nn.Dropout(0.1).eval())
        True
    """
    off = type(module) is nn.Dropout and not (module.training and module.p > 0)
    return (off or type(module) is nn.Identity) and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of `module` runs more than its class's forward.

    True for hooks on the module or on all modules, a `forward` assigned to the object, a parametrization, and a module
    compiled by `module.compile()`.

    Example:
        >>> has_hooks(nn.Linear(2, 2))
        False
    """
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks or call_obstacle(module))
