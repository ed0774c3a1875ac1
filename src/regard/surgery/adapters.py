"""How a module of others comes to run on our attention: it keeps everything but its class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from regard.onednn import is_heard


class Adapter(nn.Module):
    """Base of the classes that a foreign module's class is combined with; they overrule one method of it.

    The object stays: parameters, buffers, names, hooks and attributes are the module's own, `isinstance` still holds,
    and `super().forward` is the original path, for calls that we do not serve. PyTorch's parametrizations work alike.
    """

    original: ClassVar[type[nn.Module]]
    adapter: ClassVar[type[Adapter]]

    if TYPE_CHECKING:  # what the module of others has

        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Pickle and copy by the two classes: the combined one has no name that pickle could look up."""
        return _rebuild, (self.adapter, self.original), vars(self).copy()


def put_on(module: nn.Module, adapter: type[Adapter]) -> None:
    """Let a module run on an adapter."""
    module.__class__ = _combine(adapter, type(module))


def take_off(module: nn.Module) -> None:
    """Undo `put_on`."""
    if isinstance(module, Adapter):
        module.__class__ = module.original  # type: ignore[assignment]  # what it was


_COMBINED: dict[tuple[type, type], type[Adapter]] = {}


def _combine(adapter: type[Adapter], original: type[nn.Module]) -> type[Adapter]:
    if (adapter, original) not in _COMBINED:
        members = {"original": original, "adapter": adapter, "__module__": __name__}
        _COMBINED[adapter, original] = type(f"Fused{original.__name__}", (adapter, original), members)
        keep_whole(_COMBINED[adapter, original])
    return _COMBINED[adapter, original]


def keep_whole(kind: type[nn.Module]) -> None:
    """Let timm's feature extractors call modules of a class, not trace into them."""
    timm: Any = sys.modules.get("timm.layers")
    if timm is not None:
        timm.register_notrace_module(kind)


def _rebuild(adapter: type[Adapter], original: type[nn.Module]) -> nn.Module:
    combined = _combine(adapter, original)
    return combined.__new__(combined)


def sees_weights(dropout: nn.Module) -> bool:
    """Tell whether the dropout of attention weights wants to see them: it drops, is another module, or is heard."""
    return type(dropout) is not nn.Dropout or (dropout.training and dropout.p > 0) or is_heard(dropout)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Cut channels into heads, `[..., nh * hd]` to `[..., nh, hd]`."""
    return x.unflatten(-1, (-1, head_dim))


def relative_bias(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """Turn Swin's table, `[prod(2 * w - 1), nh]` by query minus key, into the `bias` of `window_attention`."""
    return table.unflatten(0, [2 * size - 1 for size in window]).movedim(-1, 0).flip((1, 2))
