"""Base classes of the adapters, which make an upstream module run on regard's functions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsIndex

from torch import nn

from regard.attention import BackendModule
from regard.errors import UnsupportedError
from regard.surgery.inspection import Upstream


class Adapter(Upstream):
    """Base class of the adapters. `attach` combines one with the class of an upstream module.

    The module stays the same object: parameters, buffers, names, hooks and attributes are unchanged, `isinstance`
    holds, and `super().forward` is the upstream forward, for calls that regard does not support. PyTorch's
    parametrizations work in the same way.

    An adapter states what it supports in the class attributes below, so that a new upstream class needs one adapter
    and one line in `rules.ADAPTERS`. Their names are long because they hide attributes of the upstream module.

    Attributes:
        upstream_classes: full names of the upstream classes.
        mechanism: what computes the module now, for the report.
        required_attributes: attributes that the adapter reads; a version of the class without them is unknown.
        inner_attention: name and full class name of the child that is the attention, if the class is a block.
        last_layer: name of the dense layer that computes the output, if a factor may be folded into it.
    """

    upstream_classes: ClassVar[tuple[str, ...]]
    mechanism: ClassVar[str]
    required_attributes: ClassVar[tuple[str, ...]]
    inner_attention: ClassVar[tuple[str, str] | None] = None
    last_layer: ClassVar[str] = ""

    original: ClassVar[type[nn.Module]]
    adapter: ClassVar[type[Adapter]]

    @classmethod
    def obstacle_in(cls, module: Upstream) -> str:
        """Return why the adapter does not support an upstream module; empty if it does."""
        del module
        return ""

    @classmethod
    def note_on(cls, module: Upstream) -> str:
        """Return which calls of an upstream module will keep running its own forward; empty if none are known."""
        del module
        return ""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Pickle and copy by the two classes, since the combined class has no name that pickle could look up."""
        return _rebuild, (self.adapter, self.original), vars(self).copy()


class AttentionAdapter(BackendModule, Adapter):
    """Base class of the adapters of attention: they have a `backend`, which `set_backend` changes."""

    def runs_upstream(self, obstacles: Mapping[str, object]) -> bool:
        """Whether a call must run the upstream forward.

        Args:
            obstacles: reasons against regard's functions, each with whether it holds.

        Raises:
            UnsupportedError: a reason holds, and the backend is "fused".
        """
        reasons = [reason for reason, holds in obstacles.items() if holds]
        if reasons and self.backend == "fused":
            raise UnsupportedError(
                f"no fused kernel for this call of {self.original.__qualname__}:\n  - "
                + "\n  - ".join(reasons)
                + "\nset_backend(model, None) lets such calls run the upstream forward"
            )
        return bool(reasons)


def attach(module: nn.Module, adapter: type[Adapter]) -> None:
    """Make a module run on an adapter."""
    module.__class__ = _combine(adapter, type(module))


def detach(module: nn.Module) -> None:
    """Undo `attach`."""
    if isinstance(module, Adapter):
        module.__class__ = module.original  # type: ignore[assignment]  # its class before


def adapter_name(adapter: type[Adapter]) -> str:
    """Return the name of an adapter inside this package, such as `for_timm.vit.Attention`."""
    return f"{adapter.__module__}.{adapter.__qualname__}".removeprefix(f"{__package__}.")


_COMBINED: dict[tuple[type, type], type[Adapter]] = {}


def _combine(adapter: type[Adapter], original: type[nn.Module]) -> type[Adapter]:
    if (adapter, original) not in _COMBINED:
        members = {"original": original, "adapter": adapter, "__module__": __name__}
        _COMBINED[adapter, original] = type(f"Fused{original.__name__}", (adapter, original), members)
        exclude_from_tracing(_COMBINED[adapter, original])
    return _COMBINED[adapter, original]


def exclude_from_tracing(kind: type[nn.Module]) -> None:
    """Make timm's feature extractors call modules of a class as a whole instead of tracing them."""
    layers = sys.modules.get("timm.layers")
    if layers is not None:
        layers.register_notrace_module(kind)


def _rebuild(adapter: type[Adapter], original: type[nn.Module]) -> nn.Module:
    combined = _combine(adapter, original)
    return combined.__new__(combined)
