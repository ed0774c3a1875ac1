"""Checks of the fields of configurations, by their annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from types import UnionType
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from regard.errors import OptionError, ShapeError

WORDS: Mapping[object, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    type(None): "None",
}
ARGUMENTS = ("num_classes", "in_chans", "weights")  # of `create_model`, beside the fields of the configuration


@dataclass(frozen=True)
class ModelConfig:
    """Base class of the families' configurations; checks the fields by their annotations and names.

    * Whole numbers are at least 1.
    * `tuple[int, ...]` holds one number per stage, so all such fields have the same length; `tuple[int, int]` holds
      two. Each number is at least 1.
    * `..._ratio` is positive, and `..._rate` is in [0, 1).

    Raises:
        OptionError: a value of another type.
        ShapeError: a value out of its range, or fields that do not fit together.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        hints = get_type_hints(type(self))
        tuples = {name: get_args(kind) for name, kind in hints.items() if get_origin(kind) is tuple}
        check_numbers(self, [name for name, kinds in tuples.items() if ... in kinds])
        for name, kinds in tuples.items():
            if ... not in kinds:
                check_numbers(self, [name], count=len(kinds))
        for name, kind in hints.items():
            value = getattr(self, name)
            if kind is int and value < 1:
                raise ShapeError(f"{name} must be at least 1, got {value}")
            if name.endswith("_ratio"):
                check_positive(name, value)
            if name.endswith("_rate") and not 0 <= value < 1:
                raise ShapeError(f"{name} must be in [0, 1), got {value}; 0 drops nothing")


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def override(name: str, config: ConfigT, overrides: Mapping[str, object]) -> ConfigT:
    """Return a model's configuration with other values of some fields.

    Raises:
        OptionError: a field that it does not have, or a value of another type.
        ShapeError: fields that do not fit together.
    """
    valid = [field.name for field in fields(config)]
    for option in overrides:
        if option not in valid:
            raise OptionError.unknown(f"option of {name}", option, (*valid, *ARGUMENTS))
    return replace(config, **overrides)


def check_fields(config: object) -> None:
    """Check the types of the fields of a configuration by their annotations, except the elements of tuples.

    A whole number is valid for a float. A bool is not valid for a number, and numbers are finite.

    Raises:
        OptionError: a value of another type.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise OptionError.unknown(name, value, get_args(kind))
        if not _fits(value, kind):
            kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            expected = " or ".join(WORDS.get(each, getattr(each, "__name__", str(each))) for each in kinds)
            raise OptionError(f"{name} must be {expected}, got {value!r}")


def check_numbers(config: object, names: Sequence[str], count: int | None = None) -> None:
    """Check that fields hold whole numbers of at least 1: `count` numbers each, or one per stage.

    Raises:
        ShapeError: other values.
    """
    found = ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
    values = [getattr(config, name) for name in names]
    if not all(isinstance(value, tuple | list) and value for value in values):
        raise ShapeError(f"{' and '.join(names)} must be tuples of whole numbers, got {found}")
    if any(not _fits(number, int) or number < 1 for value in values for number in value):
        raise ShapeError(f"{' and '.join(names)} must hold whole numbers of at least 1, got {found}")
    lengths = {len(value) for value in values}
    if len(lengths) > 1 and count is None:
        raise ShapeError(
            f"{' and '.join(names)} must hold one number per stage each; change them together, got {found}"
        )
    if count is not None and lengths != {count}:
        raise ShapeError(f"{' and '.join(names)} must hold {count} numbers, got {found}")


def check_positive(name: str, value: float) -> None:
    """Check that a factor is positive.

    Raises:
        ShapeError: another value.
    """
    if not value > 0:
        raise ShapeError(f"{name} must be positive, got {value}")


def check_stem_dim(name: str, value: int) -> None:
    """Check that half the channels of the first stage, which the first convolution of the stem has, are at least one.

    Raises:
        ShapeError: fewer channels.
    """
    if value < 2:
        raise ShapeError(f"{name} must start with at least 2 channels, got {value}; the stem begins with half of them")


def check_patches(img_size: int, patch_size: int) -> None:
    """Check that patches fill images of a configured size.

    Raises:
        ShapeError: other sizes.
    """
    if img_size % patch_size:
        raise ShapeError(f"img_size must be a multiple of patch_size, got {img_size} and {patch_size}; change one")


def _fits(value: object, kind: object) -> bool:
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if origin in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return isinstance(value, int) or (origin is float and isfinite(value))
    return origin in (Literal, tuple) or (isinstance(origin, type) and isinstance(value, origin))
