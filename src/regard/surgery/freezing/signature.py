"""The inputs that a frozen model was planned for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regard.surgery.compare import Example


class Arguments(NamedTuple):
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def arguments_of(example: Example) -> Arguments:
    """Return the arguments that an example stands for, without gradients."""
    if isinstance(example, Tensor):
        return Arguments((example.detach(),), {})
    detached = pytree.tree_map_only(Tensor, Tensor.detach, example)
    if isinstance(detached, Mapping):
        return Arguments((), dict(detached))
    return Arguments(tuple(cast(Sequence[Any], detached)), {})


class Signature:
    """The shapes, dtypes and strides of an example's tensors, its other values, and the number of threads.

    Args:
        arguments: of the example.
    """

    def __init__(self, arguments: Arguments) -> None:
        leaves, self.structure = pytree.tree_flatten((arguments.args, arguments.kwargs))
        self.facts = _facts(leaves)
        self.strides = [leaf.stride() if isinstance(leaf, Tensor) else None for leaf in leaves]
        self.threads = torch.get_num_threads()

    def fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Return arguments in the example's memory layout, or None if their shapes, dtypes or values are others."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        if structure != self.structure or _facts(leaves) != self.facts or torch.get_num_threads() != self.threads:
            return None
        if all(stride is None or leaf.stride() == stride for leaf, stride in zip(leaves, self.strides, strict=True)):
            return Arguments(args, kwargs)
        laid_out = [
            leaf if stride is None or leaf.stride() == stride else _copy_to(leaf, stride)
            for leaf, stride in zip(leaves, self.strides, strict=True)
        ]
        return Arguments(*pytree.tree_unflatten(laid_out, structure))

    def __str__(self) -> str:
        return describe_inputs(self.facts, self.threads)


def describe_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Describe the inputs of a call as `Signature` describes those of its example."""
    return describe_inputs(_facts(pytree.tree_leaves((args, kwargs))), torch.get_num_threads())


def describe_inputs(facts: Sequence[object], threads: int) -> str:
    """Describe inputs in words: shapes and dtypes of tensors, other values as they are."""
    words = []
    for fact in facts:
        if isinstance(fact, tuple) and isinstance(fact[0], torch.Size):
            shape, dtype, device = fact
            place = "" if device.type == "cpu" else f" on {device}"
            words.append(f"{str(dtype).removeprefix('torch.')} {list(shape)}{place}")
        else:
            words.append(repr(fact))
    return f"{', '.join(words)} with {threads} {'thread' if threads == 1 else 'threads'}"


def _facts(leaves: Sequence[Any]) -> list[object]:
    return [(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def _copy_to(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    laid_out = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return laid_out.copy_(tensor)
