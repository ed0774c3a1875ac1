"""The report of `fuse`: what was replaced, what was not, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from regard.surgery.timing import Times, milliseconds


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
        times: of one call of it, before and after; None if not measured.
    """

    path: str
    module: str
    mechanism: str
    note: str = ""
    difference: float | None = None
    tolerance: float = 0.0
    times: Times | None = None


@dataclass(frozen=True)
class Left:
    """A module that was left alone, and why.

    Attributes:
        path: its name in the model.
        module: name of its class.
        reason: why it was left alone.
        times: of one call of it and of its replacement, if that is the reason.
    """

    path: str
    module: str
    reason: str
    times: Times | None = None


@dataclass(frozen=True)
class Packing:
    """A layer whose weight could be packed, with `inference=True`.

    Attributes:
        path: its name in the model.
        layer: name of its class.
        is_packed: whether it keeps a second copy of its weight, in a kernel's layout.
        times: of one call of it, plain and packed; None if not measured.
    """

    path: str
    layer: str
    is_packed: bool
    times: Times | None = None


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
        packings: layers whose weights could be packed, with `inference=True`.
        times: of the whole model, before and after; None if not measured. They are equal if the original was kept.
        trials: times of all forms of the model that were measured, by name.
        unmeasured: why nothing was measured; empty if it was.

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
    packings: tuple[Packing, ...] = ()
    times: Times | None = None
    trials: Mapping[str, Times] = field(default_factory=dict)
    unmeasured: str = ""

    def __str__(self) -> str:
        rows = _grouped(
            "replaced", ((one.path, f"{one.module} by {one.mechanism}", one.note, one.times) for one in self.replaced)
        )
        rows += _grouped("left", ((one.path, one.module, one.reason, one.times) for one in self.left))
        rows += _grouped("folded", ((one.path, f"into {one.into}", "", None) for one in self.folded))
        for head, is_packed in (("packed", True), ("unpacked", False)):
            layers = (one for one in self.packings if one.is_packed == is_packed and one.times)
            rows += _grouped(head, ((one.path, one.layer, "", one.times) for one in layers))
        if not (self.replaced or self.folded or any(one.is_packed for one in self.packings)):
            rows.insert(0, ("nothing", "was replaced" if self.left else "to replace", ""))
        if self.difference is not None:
            rows.append(_compared("outputs", self.difference, self.tolerance))
        elif self.unchecked:
            rows.append(("outputs", f"not compared: {self.unchecked}", ""))
        modules = [(one.difference, one.tolerance) for one in self.replaced if one.difference is not None]
        if modules:
            rows.append(_compared("modules", *max(modules)))
        rows += self._speed()
        rows += [("note", note, "") for note in self.notes]
        return _table(rows)

    def _speed(self) -> list[Row]:
        """Return the rows about the speed of the whole model."""
        if self.times is None:
            return [("speed", f"not measured: {self.unmeasured}", "")] if self.unmeasured else []
        rows = [("speed", str(self.times), f"{self.times.speedup:.2f} times as fast")]
        return rows + [
            ("tried", name, f"{milliseconds(times.after)}, {times.speedup:.2f} times as fast")
            for name, times in self.trials.items()
        ]


KEPT = ("left", "unpacked")
"""Rows whose modules stay as they were."""

NUMBER = r"\b\d+\b"

Row = tuple[str, str, str]


def _compared(what: str, difference: float, tolerance: float) -> Row:
    return what, f"differ by {difference:.1e} of the largest", f"allowed {tolerance:.1e}"


def _spent(times: Times, is_kept: bool) -> str:
    return f"{milliseconds(times.before)}, regard {milliseconds(times.after)}" if is_kept else str(times)


def _grouped(head: str, entries: Iterable[tuple[str, str, str, Times | None]]) -> list[Row]:
    """Return one row for entries that differ only in the numbers of their layers, written as `*`; times are summed."""
    groups: dict[Row, list[tuple[str, str, Times | None]]] = {}
    for path, what, why, times in entries:
        key = re.sub(NUMBER, "*", path), re.sub(NUMBER, "*", what), why
        groups.setdefault(key, []).append((path, what, times))
    rows = []
    for (pattern, what, why), group in groups.items():
        if len(group) == 1:
            ((pattern, what, _),) = group
        count = f" ({len(group)} times)" if len(group) > 1 else ""
        measured = [times for _, _, times in group if times]
        spent = _spent(sum(measured[1:], measured[0]), head in KEPT) if measured else ""
        more = "; ".join(filter(None, (why, spent)))
        rows.append((head, pattern if pattern else "the model itself", f"{what}{count}{': ' if more else ''}{more}"))
    return rows


def _table(rows: list[Row]) -> str:
    first = max(len(row[0]) for row in rows)
    second = max((len(row[1]) for row in rows if row[2]), default=0)
    return "\n".join(f"{head:{first}}  {name:{second}}  {text}".rstrip() for head, name, text in rows)
