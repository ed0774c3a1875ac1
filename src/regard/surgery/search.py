"""Finding the attention modules of a model, and which of them have an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from regard.surgery import rules
from regard.surgery.adapter import Adapter
from regard.surgery.inspection import (
    Sharing,
    Upstream,
    class_name,
    find_base,
    obstacle,
    overridden,
    patched,
    walk,
)
from regard.surgery.notes import DENSE
from regard.surgery.report import Left


@dataclass(frozen=True)
class Found:
    """A module that an adapter supports."""

    path: str
    module: nn.Module
    name: str
    adapter: type[Adapter]
    note: str


def find(model: nn.Module) -> tuple[list[Found], list[Left]]:
    """Sort the attention modules of a model into those that have an adapter and those that must be left alone."""
    sharing = Sharing(model)
    found: list[Found] = []
    left: list[Left] = []
    known: list[str] = []
    for path, module, blocked in walk(model):
        name = type(module).__qualname__
        match = rules.find_adapter(type(module))
        if match is None:
            if _is_unknown_attention(module) and not any(_is_inside(path, one) for one in known):
                left.append(Left(path, name, blocked if blocked else _unknown(type(module))))
            continue
        known.append(path)
        if isinstance(module, Adapter):
            left.append(Left(path, module.original.__qualname__, "it is fused already"))
            continue
        adapter, base = match
        reason = blocked if blocked else _obstacle(module, adapter, base, sharing)
        if reason:
            left.append(Left(path, name, reason))
        else:
            found.append(Found(path, module, name, adapter, adapter.note_on(module)))
    return found, left


def _obstacle(module: Upstream, adapter: type[Adapter], base: type[nn.Module], sharing: Sharing) -> str:
    """Return why an adapter must not be attached to a module; empty if it may."""
    missing = [name for name in adapter.required_attributes if not hasattr(module, name)]
    if missing:
        return f"this version has no {', '.join(missing)}"
    attention: nn.Module = module
    attention_base, subject = base, "it"
    if adapter.inner_attention is not None:
        child, known = adapter.inner_attention
        attention, subject = module.get_submodule(child), f"its {child}"
        inner_base = find_base(type(attention), (known,))
        if inner_base is None:
            return f"{subject} is a {class_name(type(attention))}"
        attention_base = inner_base
    for prefix, reason in (
        ("it ", overridden(type(module), base) or patched(module)),
        (f"{subject} ", overridden(type(attention), attention_base) or patched(attention)),
        ("", obstacle(attention, base.__module__.partition(".")[0], sharing) or adapter.obstacle_in(module)),
    ):
        if reason:
            return f"{prefix}{reason}"
    return ""


def _unknown(kind: type[nn.Module]) -> str:
    """Return why there is no adapter for a class of attention."""
    return rules.OTHER_MECHANISMS.get(class_name(kind), f"regard does not know this class of {kind.__module__}")


def _is_unknown_attention(module: nn.Module) -> bool:
    """Whether a module without an adapter is the innermost one that looks like attention."""
    if not rules.is_attention(module):
        return False
    inner = list(module.modules())[1:]
    known = (rules.find_adapter(type(one)) for one in inner)
    if any(match is not None and match[0].mechanism != DENSE for match in known):
        return False
    return not any(rules.is_attention(one) for one in inner)


def _is_inside(path: str, outer: str) -> bool:
    return outer == "" or path.startswith(outer + ".")
