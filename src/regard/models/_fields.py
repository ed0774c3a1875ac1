"""Checks of the fields of models' configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from math import inf
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from regard.errors import OptionError, ShapeError

WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", type(None): "None"}


ConfigT = TypeVar("ConfigT")


def override(name: str, config: ConfigT, overrides: Mapping[str, Any]) -> ConfigT:
    """Change fields of a model's configuration.

    Raises:
        OptionError: a field that it does not have, or a value of another type.
        ShapeError: fields that do not fit together.
    """
    valid = [field.name for field in fields(config)]  # type: ignore[arg-type]  # every configuration is a dataclass
    for option in overrides:
        if option not in valid:
            raise OptionError.unknown(f"option of {name}", option, valid)
    return replace(config, **overrides)  # type: ignore[type-var]


def check_fields(config: Any) -> None:  # noqa: ANN401
    """Check the fields of a configuration by their annotations; tuples are left to `check_numbers`.

    Whole numbers are numbers too, but no bool is one, and a number is finite.

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


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if origin in (int, float):
        return isinstance(value, int | origin) and not isinstance(value, bool) and -inf < value < inf
    return origin in (Literal, tuple) or isinstance(value, origin)


def check_numbers(config: object, *names: str, count: int | None = None) -> None:
    """Check that fields of a configuration hold whole numbers of at least 1: `count` each, or one per stage."""
    found = ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
    values = [getattr(config, name) for name in names]
    if not all(isinstance(value, tuple | list) and value for value in values):
        raise ShapeError(f"{' and '.join(names)} must be tuples of whole numbers, got {found}")
    if any(not _fits(number, int) or number < 1 for value in values for number in value):
        raise ShapeError(f"{' and '.join(names)} must hold whole numbers of at least 1, got {found}")
    if {len(value) for value in values} != {len(values[0]) if count is None else count}:
        expected = "one number per stage each; change them together" if count is None else f"{count} numbers"
        raise ShapeError(f"{' and '.join(names)} must hold {expected}, got {found}")


def check_ratio(name: str, value: float) -> None:
    """Check that a ratio of sizes is positive."""
    if not value > 0:
        raise ShapeError(f"{name} must be positive, got {value}")


def check_rate(name: str, value: float) -> None:
    """Check that a rate of dropping leaves something."""
    if not 0 <= value < 1:
        raise ShapeError(f"{name} must be in [0, 1), got {value}; 0 drops nothing")


def check_width(name: str, value: int) -> None:
    """Check that half the channels of the first stage, which the stem starts with, are at least one."""
    if value < 2:
        raise ShapeError(f"{name} must start with at least 2 channels, got {value}; the stem begins with half of them")
