"""The report of `fuse`: what was replaced, what was not, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Replaced:
    """A module that now runs on regard's functions.

    Attributes:
        path: its name in the model.
        module: name of its upstream class.
        mechanism: what computes it now.
        note: which of its calls still run the upstream forward.
        difference: largest difference of its outputs, relative to the largest output; None if not compared.
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
    """A module that was left alone, and why."""

    path: str
    module: str
    reason: str


@dataclass(frozen=True)
class Folded:
    """A layer that is now part of another layer."""

    path: str
    into: str


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did; printing it gives a table.

    Attributes:
        replaced: modules that now run on regard's functions.
        left: attention modules that were left alone, with reasons.
        folded: layers that are now part of another layer, with `inference=True`.
        difference: largest difference of the outputs, relative to the largest output; None if not compared.
        tolerance: the difference that rounding explains.
        unchecked: why the outputs were not compared; empty if they were.
        notes: further facts, such as a folding that was rolled back.

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


NUMBER = r"\b\d+\b"

Row = tuple[str, str, str]


def _compared(what: str, difference: float, tolerance: float) -> Row:
    return what, f"differ by {difference:.1e} of the largest", f"allowed {tolerance:.1e}"


def _grouped(head: str, entries: Iterable[tuple[str, str, str]]) -> list[Row]:
    """Return one row for entries that differ only in the numbers of their layers, written as `*`."""
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
