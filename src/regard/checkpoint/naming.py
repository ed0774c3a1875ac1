"""Namings: the names that one group of checkpoints gives to the tensors of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Rewrite = tuple[str, str | Callable[[re.Match[str]], str]]


class Source(NamedTuple):
    """A tensor of a checkpoint, or one row of it."""

    name: str
    row: int | None = None


@dataclass(frozen=True)
class Naming:
    r"""The names that one group of checkpoints gives to the tensors of a model.

    One description serves both directions: loading looks up the sources of each of the model's tensors, saving writes
    them.

    Attributes:
        name: who uses these names: "regard", "official" (the paper's authors), "timm", "hf" (files on the Hugging Face
            hub) or "hf5" (models in memory since transformers 5).
        rewrites: pairs of a pattern and its replacement, as in `re.sub`, applied to the model's names one after the
            other. In the result, `{a,b,c}` stands for several tensors of the checkpoint that the model stacks along
            the first axis, and a final `[i]` for row i of a tensor.
        pointwise: pattern of the model's names whose tensors have two more axes of size 1 in the checkpoint, as the
            weights of 1x1 convolutions do.
        derived: computes the tensors that checkpoints hold besides the model's, such as index tables, from the model's
            configuration. They are written when a checkpoint is saved.
        ignored: pattern of the checkpoint's names for such tensors, which loading does not need.
        requires: fields of the model's configuration that the weights were trained with, where neither names nor shapes
            show it.

    Example:
        >>> naming = Naming("hf", ((r"\bqkv\.", "{query,key,value}."),))
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
        """Return the tensors of the checkpoint that one tensor of the model is made of."""
        for pattern, replacement in self.rewrites:
            name = re.sub(pattern, replacement, name)
        head, brace, rest = name.partition("{")
        words, _, tail = rest.partition("}")
        names = [head + word + tail for word in words.split(",")] if brace else [name]
        return tuple(_with_row(each) for each in names)

    def is_pointwise(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of the model with two more axes."""
        return self.pointwise is not None and re.search(self.pointwise, name) is not None

    def ignores(self, name: str) -> bool:
        """Whether loading does not need a tensor of the checkpoint."""
        return self.ignored is not None and re.search(self.ignored, name) is not None

    def extras(self, model: nn.Module) -> dict[str, Tensor]:
        """Compute the tensors that checkpoints hold besides the model's."""
        return {} if self.derived is None else self.derived(model)


OWN = Naming("regard")


@runtime_checkable
class Convertible(Protocol):
    """A module that declares what its checkpoints need; each `regard.models.Backbone` does.

    Other modules load checkpoints whose names and shapes are their own.
    """

    @property
    def config(self) -> object:
        """The configuration, whose fields `Naming.requires` refers to."""

    @property
    def namings(self) -> tuple[Naming, ...]:
        """The namings of its tensors besides its own."""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The names of the classifying layers."""

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a tensor of a checkpoint in this model's size, or None if it cannot be resized."""


class _Plain:
    """The declarations of a module that has none."""

    config: object = None
    namings: tuple[Naming, ...] = ()
    classifiers: tuple[str, ...] = ()

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        return None


def declarations(model: nn.Module) -> Convertible:
    """Return what a module declares about its checkpoints: the module itself if it is `Convertible`, else nothing."""
    return model if isinstance(model, Convertible) else _Plain()


def _with_row(name: str) -> Source:
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return Source(name) if match is None else Source(match[1], int(match[2]))
