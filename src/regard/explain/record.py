"""Recording the attention calls of a model while it runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from regard.attention import MECHANISMS, BackendModule, Mechanism
from regard.errors import UnsupportedError
from regard.explain.maps import AttentionMap

BY_FUNCTION: Mapping[Callable[..., object], Mechanism] = {one.function: one for one in MECHANISMS}
"""The mechanisms by the function that computes them."""


class Patches(NamedTuple):
    """Features that a model has unfolded into patches: `[B, P, N, ...]`, P positions of N patches.

    Attributes:
        sides: rows and columns of a patch.
        counts: rows and columns of patches.
    """

    sides: tuple[int, int]
    counts: tuple[int, int]

    @classmethod
    def of(cls, positions: int, grid: tuple[int, int]) -> Patches:
        """Return square patches of P positions that fill a grid.

        Raises:
            UnsupportedError: they do not fill it.
        """
        side = math.isqrt(positions)
        if side**2 != positions or any(length % side for length in grid):
            raise UnsupportedError(
                f"expected features that square patches of {positions} positions fill, got a grid of {grid[0]} x "
                f"{grid[1]}; change the size of the images"
            )
        return cls((side, side), (grid[0] // side, grid[1] // side))

    def fold(self, tensor: Tensor) -> Tensor:
        """Put the patches back at their places: `[B, P, N, ...]` to `[B, H, W, ...]`."""
        split = tensor.unflatten(2, self.counts).unflatten(1, self.sides)  # [B, ph, pw, rows, columns, ...]
        return split.permute(0, 3, 1, 4, 2, *range(5, split.ndim)).flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True)
class Call:
    """One call of an attention function inside a model.

    Attributes:
        layer: path of the module that made it.
        mechanism: what was called.
        arguments: of the call, by name, with the defaults of those that were not given. Patches that a model has
            unfolded are back at their places in the image.
        output: of the call, as it was returned, still in the graph of gradients if one was recorded.
        grid: of the module's input, which is smaller than that of the arguments if the module has padded it.
        size: height and width of the model's images.
        patches: what the model has unfolded; None if the arguments lie on their grid.
    """

    layer: str
    mechanism: Mechanism
    arguments: Mapping[str, Any]
    output: Tensor | tuple[Tensor, ...]
    grid: tuple[int, ...]
    size: tuple[int, int]
    patches: Patches | None = None

    def on_grid(self, tensor: Tensor) -> Tensor:
        """Return a tensor in the layout of the output, `[B, *grid, ...]`, in that of the arguments."""
        return tensor if self.patches is None else self.patches.fold(tensor)

    def map(self, *, mixed: bool = True) -> AttentionMap:
        """Return where the call's queries look, computed from its own query and key.

        Args:
            mixed: of talking-heads attention, whether to return the weights after the second mix, which multiply the
                values, or each head's softmax before it. Other mechanisms have one kind of weights.
        """
        return AttentionMap.of(self, mixed=mixed)


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
    place = _Place()
    handles = [model.register_forward_pre_hook(place.begin, with_kwargs=True)]
    for path, module in model.named_modules():
        if isinstance(module, BackendModule):
            handles.append(module.register_forward_pre_hook(partial(place.enter, path), with_kwargs=True))
            handles.append(module.register_forward_hook(place.leave, always_call=True))
            unfolding = unfolding_module(model, path, module)
            if unfolding is not None:
                last = unfolding.get_submodule(str(module.unfolded_after))
                handles.append(last.register_forward_hook(partial(place.note_grid, path)))
    try:
        with _Recorder(calls, place):
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


class _Place:
    """Where the model's execution is: in which modules, on which images."""

    def __init__(self) -> None:
        self.size = (0, 0)
        self.modules: list[tuple[str, tuple[object, ...]]] = []
        self.unfolded: dict[str, tuple[int, int]] = {}

    def begin(self, _: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Note the size of the images: of the first tensor that can be images."""
        images = (one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.ndim >= 4)
        self.size = next(((one.shape[-2], one.shape[-1]) for one in images), (0, 0))

    def enter(self, path: str, _: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Note that an attention module begins."""
        self.modules.append((path, (*args, *kwargs.values())))

    def leave(self, *_: object) -> None:
        """Note that the last attention module ends."""
        self.modules.pop()

    def note_grid(self, path: str, _: nn.Module, inputs: object, output: Tensor) -> None:
        """Note the grid of `[B, C, H, W]`, which will be unfolded into patches for an attention module."""
        self.unfolded[path] = (output.shape[2], output.shape[3])


class _Recorder(TorchFunctionMode):
    """Appends the calls of regard's functions to a list."""

    def __init__(self, calls: list[Call], place: _Place) -> None:
        super().__init__()
        self.calls, self.place = calls, place

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
            self.calls.append(_call(self.place, mechanism, bound.arguments, output))
        return output


def _call(
    place: _Place, mechanism: Mechanism, arguments: Mapping[str, Any], output: Tensor | tuple[Tensor, ...]
) -> Call:
    layer, inputs = place.modules[-1] if place.modules else ("", ())
    grid, patches = _grid_of(inputs, arguments["query"]), None
    if layer in place.unfolded:
        grid = place.unfolded[layer]
        patches = Patches.of(arguments["query"].shape[1], grid)
        folded = {name: patches.fold(arguments[name]) for name in ("query", "key", "value")}
        arguments = {**arguments, **folded, "patch_size": patches.sides}
    return Call(layer, mechanism, arguments, output, grid, place.size, patches)


def _grid_of(inputs: Sequence[object], query: Tensor) -> tuple[int, ...]:
    """Return the grid of a module's input: `[B, *grid, C]`, `[B, C, H, W]`, or `[B, H * W, C]` and (H, W)."""
    tensors = [one for one in inputs if isinstance(one, Tensor)]
    if not tensors:
        return ()
    shape, channels = tuple(tensors[0].shape), math.prod(query.shape[-2:])
    if len(shape) == 4 and shape[1] == channels != shape[3]:
        return shape[2:]
    pairs = [tuple(map(int, one)) for one in inputs if isinstance(one, tuple | list) and len(one) == 2]
    if len(shape) == 3 and (match := [pair for pair in pairs if math.prod(pair) == shape[1]]):
        return match[0]
    return shape[1:-1]


def unfolding_module(model: nn.Module, path: str, attention: nn.Module) -> nn.Module | None:
    """Return the module around an attention module that unfolds features into patches for it; None if there is none.

    An adapter names the layer whose output is unfolded, `unfolded_after`; the closest module with that layer is it.
    """
    name = getattr(attention, "unfolded_after", "")
    while name and path:
        path = path.rpartition(".")[0]
        around = model.get_submodule(path)
        if isinstance(getattr(around, name, None), nn.Module):
            return around
    return None
