"""Finding the attention modules of a model, and sorting them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from regard.surgery import rules
from regard.surgery.adapters import Adapter
from regard.surgery.obstacles import Sharing, obstacle, overridden, patched, walk
from regard.surgery.report import Left


@dataclass(frozen=True)
class Found:
    """A module that a rule serves."""

    path: str
    module: nn.Module
    name: str
    rule: rules.Rule
    note: str


def find(model: nn.Module) -> tuple[list[Found], list[Left]]:
    """Sort the attention modules of a model into those that can be served and those that cannot."""
    sharing = Sharing(model)
    found: list[Found] = []
    left: list[Left] = []
    outer: list[str] = []
    for path, module, closed in walk(model):
        name = type(module).__qualname__
        matched = rules.find_rule(type(module))
        if matched is None:
            if _unknown(module) and not any(_inside(path, one) for one in outer):
                reason = closed if closed else f"regard does not know this class of {type(module).__module__}"
                left.append(Left(path, name, reason))
            continue
        outer.append(path)
        if isinstance(module, Adapter):
            left.append(Left(path, module.original.__qualname__, "it is fused already"))
            continue
        reason = closed if closed else _reason(module, *matched, sharing)
        if reason:
            left.append(Left(path, name, reason))
        else:
            found.append(Found(path, module, name, matched[0], matched[0].note(module)))
    return found, left


def _reason(module: nn.Module, rule: rules.Rule, known: type[nn.Module], sharing: Sharing) -> str:
    missing = [name for name in rule.needs if not hasattr(module, name)]
    if missing:
        return f"this version has no {', '.join(missing)}"
    child, kind = rule.part
    part = module.get_submodule(child)
    base = rules.base_of(type(part), rule.module, kind) if child else known
    if base is None:
        return f"its {child} is a {type(part).__module__}.{type(part).__qualname__}"
    for whose, reason in (
        ("it", overridden(type(module), known) or patched(module)),
        (f"its {child}", overridden(type(part), base) or patched(part)),
        ("", obstacle(part, rule.module.partition(".")[0], sharing) or rule.reason(module)),
    ):
        if reason:
            return f"{whose} {reason}".lstrip()
    return ""


def _unknown(module: nn.Module) -> bool:
    """Tell whether a class that no rule names is somebody's attention: the innermost that calls itself so."""
    if not _calls_itself_attention(module):
        return False
    known = (rules.find_rule(type(one)) for one in module.modules())
    if any(matched is not None and matched[0].mechanism != rules.DENSE for matched in known):
        return False
    return not any(_calls_itself_attention(one) for one in list(module.modules())[1:])


def _calls_itself_attention(module: nn.Module) -> bool:
    package, name = type(module).__module__.partition(".")[0], type(module).__name__
    return package != "regard" and ("Attention" in name or "Attn" in name) and any(True for _ in module.parameters())


def _inside(path: str, outer: str) -> bool:
    return outer == "" or path.startswith(outer + ".")
