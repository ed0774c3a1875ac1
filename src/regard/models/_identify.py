"""Recognition of checkpoints by the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from regard.checkpoint import OWN, Naming, State, join, rename_tensors
from regard.errors import CheckpointError
from regard.models._backbone import Backbone
from regard.models._families import FAMILIES
from regard.models._meta import on_meta


@dataclass(frozen=True)
class Identity:
    """The family and the naming of a checkpoint.

    Attributes:
        family: the class of the models that have such tensors.
        naming: the naming of the tensors.
        same_names: further namings that give them the same names.
    """

    family: type[Backbone[Any]]
    naming: str
    same_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it as the end of a sentence."""
        return f"a {self.family.__name__} checkpoint in the naming of {join((self.naming, *self.same_names))}"


def identify(state: State) -> Identity | None:
    """Recognize a checkpoint by the patterns of its names, whatever its depth; None if it belongs to no family."""
    patterns = _patterns(state)
    scores = [
        (len(patterns & kind.patterns) / max(len(patterns | kind.patterns), 1), len(kind.names & state.keys()))
        for kind in _kinds()
    ]
    best = max(scores)  # the second number tells namings apart that differ in digits only
    if best[0] <= 0.5:
        return None
    family, *_ = (kind.family for kind, score in zip(_kinds(), scores, strict=True) if score == best)
    found = [kind for kind, score in zip(_kinds(), scores, strict=True) if score == best and kind.family is family]
    naming, *same = dict.fromkeys(kind.naming for kind in found)
    return Identity(family, naming, tuple(same))


def variants_of(state: State) -> list[tuple[str, str]]:
    """Return the names of the models that have exactly these tensors, each with the naming.

    Raises:
        CheckpointError: a checkpoint that no model has.
    """
    identity = identify(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    fitting = [] if identity is None else list(_fitting(identity.family, shapes))
    if not fitting:
        looks = "of no model here" if identity is None else f"{identity}, but of no published size"
        raise CheckpointError(f"this checkpoint of {len(state)} tensors is {looks}; say which model it belongs to")
    return fitting


class _Kind(NamedTuple):
    """The names of a family's tensors in a naming, for one variant."""

    family: type[Backbone[Any]]
    naming: str
    names: frozenset[str]
    patterns: frozenset[str]


@cache
def _kinds() -> tuple[_Kind, ...]:
    """Return all namings of one variant for each way in which a family's tensors are named."""
    variants: dict[object, tuple[type[Backbone[Any]], str]] = {}
    for family in FAMILIES:
        for name, variant in family.variants.items():
            namings = family.name_tensors(variant.config)
            classifiers = family.name_classifiers(variant.config)
            ends = tuple(naming.sources(f"{each}.weight") for naming in namings for each in ("norm", *classifiers))
            variants.setdefault((family, classifiers, ends), (family, name))
    kinds = []
    for family, name in variants.values():
        model = _build(family, name)
        own = list(model.state_dict())
        for naming in _namings(model):
            names = frozenset(source.name for each in own for source in naming.sources(each))
            kinds.append(_Kind(family, naming.name, names, _patterns(names)))
    return tuple(kinds)


def _fitting(family: type[Backbone[Any]], shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    for name in family.variants:
        model = _build(family, name)
        for naming in _namings(model):
            free = replace(naming, requires={})
            expected = {each: tuple(tensor.shape) for each, tensor in rename_tensors(model, free).items()}
            needed = [{each: s for each, s in one.items() if not naming.ignores(each)} for one in (expected, shapes)]
            if _decisive(needed[0], model, naming) == _decisive(needed[1], model, naming):
                yield name, naming.name
                break


def _decisive(shapes: dict[str, tuple[int, ...]], model: Backbone[Any], naming: Naming) -> dict[str, tuple[int, ...]]:
    """Return the shapes without the sizes that vary within a variant: numbers of classes and of image channels."""
    classifiers = {
        source.name
        for layer in model.classifiers
        for kind in ("weight", "bias")
        for source in naming.sources(f"{layer}.{kind}")
    }
    (first,) = naming.sources(f"{model.first_conv}.weight")
    return {
        name: () if name in classifiers else shape[:1] + shape[2:] if name == first.name else shape
        for name, shape in shapes.items()
    }


def _build(family: type[Backbone[Any]], name: str) -> Backbone[Any]:
    with on_meta():
        return family(family.variants[name].config)


def _namings(model: Backbone[Any]) -> tuple[Naming, ...]:
    return (*model.namings, OWN)


def _patterns(names: Iterable[str]) -> frozenset[str]:
    return frozenset(re.sub(r"\d+", "#", name) for name in names)
