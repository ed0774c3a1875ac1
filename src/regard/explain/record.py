"""Recording the attention calls of a model while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from regard.attention import MECHANISMS, BackendModule, Mechanism
from regard.errors import UnsupportedError
from regard.explain.maps import AttentionMap

BY_FUNCTION: Mapping[Callable[..., object], Mechanism] = {one.function: one for one in MECHANISMS}
"""The mechanisms by the function that computes them."""


@dataclass(frozen=True)
class Call:
    """One call of an attention function inside a model.

    Attributes:
        layer: path of the module that made it.
        mechanism: what was called.
        arguments: of the call, by name, with the defaults of those that were not given.
        output: of the call, still in the graph of gradients if one was recorded.
        grid: of the module's input, which is smaller than that of the arguments if the module has padded it.
        size: height and width of the model's images.
    """

    layer: str
    mechanism: Mechanism
    arguments: Mapping[str, Any]
    output: Tensor | tuple[Tensor, ...]
    grid: tuple[int, ...]
    size: tuple[int, int]

    def map(self) -> AttentionMap:
        """Return where the call's queries look, computed from its own query and key."""
        return AttentionMap.of(self)


@contextmanager
def record(model: nn.Module) -> Iterator[list[Call]]:
    """Record the attention calls of a model.

    The calls run as they always do, on fused kernels where these serve. Only hooks are added, and they are removed at
    the end. Attention of timm, torchvision or transformers is recorded after `regard.surgery.adapt`.

    Args:
        model: any model that calls regard's attention functions. Compiled and frozen ones record nothing.

    Yields:
        The list to which every call is appended, in the order of the calls.

    Memory:
        Queries, keys and values of all layers are kept until the list is dropped.

    Example:
        >>> import regard, torch
        >>> model = regard.create_model("nat_nano").eval()
        >>> with record(model) as calls:
        ...     _ = model(torch.randn(1, 3, 32, 32))
        >>> calls[0].layer, calls[0].mechanism.name
        ('levels.0.blocks.0.attn', 'neighborhood')
    """
    calls: list[Call] = []
    inputs: list[tuple[str, tuple[int, ...]]] = []
    sizes: list[tuple[int, int]] = []
    handles = [
        model.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(_image_size(args, kwargs)), with_kwargs=True
        )
    ]
    for path, module in model.named_modules():
        if isinstance(module, BackendModule):
            handles.append(module.register_forward_pre_hook(_enter(path, inputs), with_kwargs=True))
            handles.append(module.register_forward_hook(lambda *_: _leave(inputs), always_call=True))
    try:
        with _Recorder(calls, inputs, sizes):
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def recorded(model: nn.Module, images: Tensor) -> list[Call]:
    """Call a model on images `[B, C, H, W]` and return its attention calls.

    Raises:
        UnsupportedError: the model calls none of regard's functions.
    """
    with record(model) as calls:
        model(images)
    require_calls(model, calls)
    return calls


def require_calls(model: nn.Module, calls: Sequence[Call]) -> None:
    """Check that a model has made a call.

    Raises:
        UnsupportedError: it has not.
    """
    if not calls:
        raise UnsupportedError(
            f"expected a model that calls regard's attention, got {type(model).__name__}, which does not; for a model "
            "of timm, torchvision or transformers, call regard.surgery.adapt(model) first"
        )


class _Recorder(TorchFunctionMode):
    """Appends the calls of regard's functions to a list."""

    def __init__(
        self, calls: list[Call], inputs: Sequence[tuple[str, tuple[int, ...]]], sizes: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.calls, self.inputs, self.sizes = calls, inputs, sizes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        named = {} if kwargs is None else dict(kwargs)
        output = func(*args, **named)
        mechanism = BY_FUNCTION.get(func)
        if mechanism is not None:
            bound = inspect.signature(func).bind(*args, **named)
            bound.apply_defaults()
            layer, grid = self.inputs[-1] if self.inputs else ("", ())
            size = self.sizes[-1] if self.sizes else (0, 0)
            self.calls.append(Call(layer, mechanism, bound.arguments, output, grid, size))
        return output


def _enter(path: str, inputs: list[tuple[str, tuple[int, ...]]]) -> Callable[..., None]:
    def enter(_: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        inputs.append((path, tuple(tensors[0].shape[1:-1]) if tensors else ()))

    return enter


def _leave(inputs: list[tuple[str, tuple[int, ...]]]) -> None:
    inputs.pop()


def _image_size(args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[int, int]:
    """Return height and width of the first tensor that can be images; zeros if there is none."""
    for one in (*args, *kwargs.values()):
        if isinstance(one, Tensor) and one.ndim >= 4:
            return one.shape[-2], one.shape[-1]
    return 0, 0
