"""Turn the fields of a dataclass into command-line options."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from regard.errors import OptionError

ConfigT = TypeVar("ConfigT")

WORDS = {"true": True, "false": False, "none": None}


def options_from(
    config: type, *more: inspect.Parameter
) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Return a decorator that gives a command one option per field of a dataclass.

    The type and the default of an option are those of the field; its help is the field's description in the docstring
    of the class. A mapping becomes `--set FIELD=VALUE`.

    Args:
        config: the dataclass. The command receives the options that were given, by field, so that it can tell them
            from defaults.
        more: further options of the command, which receives them likewise.
    """

    def decorate(command: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        def run(ctx: typer.Context, **values: object) -> None:
            given = {name for name in values if _is_given(ctx, name)}
            command({name: _from_option(value) for name, value in values.items() if name in given})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        run.__signature__ = inspect.Signature([context, *more, *_parameters(config)])  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def parse_override(text: str) -> tuple[str, Any]:
    """Parse FIELD=VALUE, where the value is a Python literal or else a word.

    Example:
        >>> parse_override("depths=2,2"), parse_override("token_norm=layer")
        (('depths', (2, 2)), ('token_norm', 'layer'))
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise OptionError(f"expected --set FIELD=VALUE, got {text!r}; write for example --set depths=1,1,1")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, WORDS.get(value.lower(), value)


def describe_fields(config: type) -> dict[str, str]:
    """Return the description of each field from the `Attributes` section of a class docstring, as sentences."""
    _, _, section = (inspect.getdoc(config) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section.partition("\n\n")[0], re.MULTILINE)
    described = {name: " ".join(text.replace("`", "").split()) for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in described.items()}


def option(name: str, kind: type, description: str, default: object = None) -> inspect.Parameter:
    """Return an option for `options_from`; `kind` is a type."""
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag += f"/--no-{name.replace('_', '-')}"
    hint: Any = kind | None if default is None and kind is not bool else kind
    annotation = Annotated[hint, typer.Option(flag, help=description, show_default=default not in (None, True, False))]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _parameters(config: type) -> list[inspect.Parameter]:
    kinds, described = get_type_hints(config), describe_fields(config)
    return [_parameter(each, kinds[each.name], described.get(each.name, "")) for each in fields(config)]


def _parameter(field: Field[Any], kind: Any, described: str) -> inspect.Parameter:  # noqa: ANN401  # a type hint
    if get_origin(kind) is Mapping:
        setting = typer.Option("--set", help=described, metavar="FIELD=VALUE", show_default=False)
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(field.name, keyword, default=[], annotation=Annotated[list[str], setting])
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    base = next(each for each in kinds if each is not type(None))
    return option(field.name, base, described, None if field.default is MISSING else field.default)


def _from_option(value: object) -> object:
    return dict(map(parse_override, value)) if isinstance(value, list) else value
