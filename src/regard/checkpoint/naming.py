"""Namings: how a group of checkpoints names the tensors of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

Rewrite = tuple[str, str | Callable[[re.Match[str]], str]]


class Source(NamedTuple):
    """A tensor of somebody's checkpoint, or one row of it."""

    name: str
    row: int | None = None


@dataclass(frozen=True)
class Naming:
    r"""How a group of checkpoints names the tensors of a model.

    One description serves both directions: loading looks up what each of our tensors is made of, saving writes it.

    Attributes:
        name: whose naming it is.
        rewrites: pairs of a pattern and its replacement, as of `re.sub`, applied to our names one after the other. In
            the result, `{a,b,c}` stands for several tensors of theirs that ours stacks along its first axis, and a last
            `[i]` for row i of theirs.
        pointwise: pattern of our names whose tensors they hold with two more axes of size 1, as convolutions do.
        derived: makes the tensors that their checkpoints hold besides, such as index tables, which follow from the
            model's configuration: written when saved.
        ignored: pattern of their names for such tensors, which loading does not need.
        requires: fields of the model's configuration that their weights were trained with, where no name or shape
            tells it.

    Example:
        >>> naming = Naming("theirs", ((r"\bqkv\.", "{query,key,value}."),))
        >>> [source.name for source in naming.sources("attn.qkv.bias")]
        ['attn.query.bias', 'attn.key.bias', 'attn.value.bias']
    """

    name: str
    rewrites: tuple[Rewrite, ...] = ()
    pointwise: str | None = None
    derived: Callable[[nn.Module], dict[str, Tensor]] | None = None
    ignored: str | None = None
    requires: Mapping[str, Any] = field(default_factory=dict)

    def sources(self, name: str) -> tuple[Source, ...]:
        """Name the tensors of theirs that one of ours is made of."""
        for pattern, replacement in self.rewrites:
            name = re.sub(pattern, replacement, name)
        head, brace, rest = name.partition("{")
        words, _, tail = rest.partition("}")
        names = [head + word + tail for word in words.split(",")] if brace else [name]
        return tuple(_with_row(each) for each in names)

    def is_pointwise(self, name: str) -> bool:
        """Tell whether they hold one of our tensors with two more axes."""
        return self.pointwise is not None and re.search(self.pointwise, name) is not None

    def ignores(self, name: str) -> bool:
        """Tell whether one of their tensors is not needed."""
        return self.ignored is not None and re.search(self.ignored, name) is not None

    def extras(self, model: nn.Module) -> dict[str, Tensor]:
        """Make the tensors that their checkpoints hold besides the model's."""
        return {} if self.derived is None else self.derived(model)


OWN = Naming("regard")


def _with_row(name: str) -> Source:
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return Source(name) if match is None else Source(match[1], int(match[2]))
