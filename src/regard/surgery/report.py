"""What `fuse` did to a model, and what it did not do and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Replaced:
    """A module that now runs on regard's attention.

    Attributes:
        path: its name in the model.
        module: its class, as its authors call it.
        mechanism: the mechanism of regard that serves it.
        note: when it still runs as before.
        difference: largest difference of its output, over the largest of it; None if nothing was compared.
        tolerance: the difference that rounding explains.
    """

    path: str
    module: str
    mechanism: str
    note: str = ""
    difference: float | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Left:
    """A module that was left alone, and the reason."""

    path: str
    module: str
    reason: str


@dataclass(frozen=True)
class Folded:
    """A layer that is now part of another one."""

    path: str
    into: str


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did; printing it gives a table.

    Attributes:
        replaced: modules that run on regard's attention now.
        left: attention modules that were left alone, with reasons.
        folded: layers that became part of others, with `inference=True`.
        difference: largest difference of the outputs, over the largest output; None if nothing was compared.
        tolerance: the difference that rounding explains.
        unchecked: why nothing was compared; empty if the outputs were.
        notes: what else should be known, such as a folding that was taken back.

    Example:
        >>> print(FuseReport((Replaced("blocks.0.attn", "Attention", "softmax"),), (), unchecked="check=False"))
        replaced  blocks.0.attn  Attention by softmax
        outputs   not compared: check=False
    """

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    folded: tuple[Folded, ...] = ()
    difference: float | None = None
    tolerance: float = 0.0
    unchecked: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = _grouped("replaced", ((one.path, f"{one.module} by {one.mechanism}", one.note) for one in self.replaced))
        rows += _grouped("left", ((one.path, one.module, one.reason) for one in self.left))
        rows += _grouped("folded", ((one.path, f"into {one.into}", "") for one in self.folded))
        if not (self.replaced or self.folded):
            rows.insert(0, ("nothing", "was replaced" if self.left else "to replace", ""))
        if self.difference is not None:
            rows.append(_compared("outputs", self.difference, self.tolerance))
        elif self.unchecked:
            rows.append(("outputs", f"not compared: {self.unchecked}", ""))
        modules = [(one.difference, one.tolerance) for one in self.replaced if one.difference is not None]
        if modules:
            rows.append(_compared("modules", *max(modules)))
        rows += [("note", note, "") for note in self.notes]
        return _table(rows)


NUMBER = r"\b\d+\b"  # a name that is a number

Row = tuple[str, str, str]


def _compared(what: str, difference: float, tolerance: float) -> Row:
    return what, f"differ by {difference:.1e} of the largest", f"allowed {tolerance:.1e}"


def _grouped(head: str, entries: Iterable[tuple[str, str, str]]) -> list[Row]:
    """Write what is said of many layers once, with `*` for their numbers."""
    entries = list(entries)
    counts = Counter((re.sub(NUMBER, "*", path), re.sub(NUMBER, "*", what), why) for path, what, why in entries)
    rows = []
    for (pattern, what, why), count in counts.items():
        if count == 1:
            pattern, what = next(
                (path, own)
                for path, own, reason in entries
                if (re.sub(NUMBER, "*", path), re.sub(NUMBER, "*", own), reason) == (pattern, what, why)
            )
        times = f" ({count} times)" if count > 1 else ""
        rows.append((head, pattern if pattern else "the model itself", f"{what}{times}{': ' if why else ''}{why}"))
    return rows


def _table(rows: list[Row]) -> str:
    first = max(len(row[0]) for row in rows)
    second = max((len(row[1]) for row in rows if row[2]), default=0)
    return "\n".join(f"{head:{first}}  {name:{second}}  {text}".rstrip() for head, name, text in rows)
