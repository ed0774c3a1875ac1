"""Telling what a checkpoint is from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from regard.checkpoint import OWN, Naming, State, in_naming
from regard.errors import CheckpointError
from regard.models._backbone import Backbone
from regard.models._families import FAMILIES

WHOSE = {"regard": "our", "official": "the authors'", "timm": "timm's", "hf": "Hugging Face's"}


@dataclass(frozen=True)
class Identity:
    """What a checkpoint looks like.

    Attributes:
        family: the class of the models that have such tensors.
        naming: whose names they have.
    """

    family: type[Backbone]
    naming: str

    def __str__(self) -> str:
        """Write it as the end of a sentence."""
        return f"a {self.family.__name__} checkpoint in {WHOSE.get(self.naming, self.naming)} naming"


def identify(state: State) -> Identity | None:
    """Recognize a checkpoint by the patterns of its names, whatever its depth; None if it is of no family here."""
    patterns = _patterns(state)
    found: list[tuple[float, int, Identity]] = []
    for family, name in _kinds():
        model = _on_meta(family, name)
        for naming in _namings(model):
            names = {source.name for name in model.state_dict() for source in naming.sources(name)}
            theirs = _patterns(names)
            shared = len(patterns & theirs) / max(len(patterns | theirs), 1)
            found.append(
                (shared, len(names & state.keys()), Identity(family, naming.name))
            )  # some differ in digits only
    shared, _, best = max(found, key=lambda each: each[:2])
    return best if shared > 0.5 else None


def _kinds() -> list[tuple[type[Backbone], str]]:
    """Choose one variant for every way in which a family's tensors are named."""
    kinds: dict[object, tuple[type[Backbone], str]] = {}
    for family in FAMILIES:
        for name, variant in family.variants.items():
            namings = family.name_tensors(variant.config)
            classifiers = family.name_classifiers(variant.config)
            ends = tuple(naming.sources(f"{each}.weight") for naming in namings for each in ("norm", *classifiers))
            kinds.setdefault((family, classifiers, ends), (family, name))
    return list(kinds.values())


def variants_of(state: State) -> list[tuple[str, str]]:
    """Return the names of the models that have exactly these tensors, each with the naming.

    Raises:
        CheckpointError: a checkpoint of no model here.
    """
    identity = identify(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    fitting = [] if identity is None else list(_fitting(identity.family, shapes))
    if not fitting:
        looks = "of no model here" if identity is None else f"{identity}, but of no published size"
        raise CheckpointError(f"this checkpoint of {len(state)} tensors is {looks}; say which model it belongs to")
    return fitting


def _fitting(family: type[Backbone], shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    for name in family.variants:
        model = _on_meta(family, name)
        for naming in _namings(model):
            free = replace(naming, requires={})
            theirs = {each: tuple(tensor.shape) for each, tensor in in_naming(model, free).items()}
            needed = [{each: s for each, s in one.items() if not naming.ignores(each)} for one in (theirs, shapes)]
            if _decisive(needed[0], model, naming) == _decisive(needed[1], model, naming):
                yield name, naming.name
                break


def _decisive(shapes: dict[str, tuple[int, ...]], model: Backbone, naming: Naming) -> dict[str, tuple[int, ...]]:
    """Leave out of the shapes what varies within a variant: the number of classes and the images' channels."""
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


def _on_meta(family: type[Backbone], name: str) -> Backbone:
    with torch.device("meta"):
        return family(family.variants[name].config)


def _namings(model: Backbone) -> tuple[Naming, ...]:
    return (*model.namings, OWN)


def _patterns(names: Iterable[str]) -> set[str]:
    return {re.sub(r"\d+", "#", name) for name in names}
