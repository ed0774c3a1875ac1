"""Print tables: boxed on a terminal, tab-separated in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table as Box
from rich.text import Text

BORDER = 3  # columns that a box adds per column of the table


class Table:
    """A table for people and for programs.

    On a terminal, cells wrap only at spaces, so that no name is broken. A table that is still too wide is printed as
    one block of lines per row.

    Args:
        headings: the headings of the columns.
        title: printed above the table on a terminal.
        whole: columns whose cells stay on one line.
        right: columns that are aligned right. They stay on one line too.
    """

    def __init__(
        self, *headings: str, title: str = "", whole: Collection[str] = (), right: Collection[str] = ()
    ) -> None:
        self.headings = headings
        self.title = title
        self.whole = {*whole, *right}
        self.right = right
        self.rows: list[Sequence[str]] = []

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def tab_separated(self) -> list[str]:
        """Return the headings and the rows as lines of cells separated by tabs."""
        return ["\t".join(" ".join(cell.split()) for cell in row) for row in (self.headings, *self.rows)]

    def boxed(self, width: int) -> Box | None:
        """Return the table as rich draws it, or None if it needs more than `width` columns."""
        box = Box(title=Text(self.title) if self.title else None)
        needed = 1
        for index, heading in enumerate(self.headings):
            is_whole = heading in self.whole
            cells = [Text(row[index]) for row in (self.headings, *self.rows)]
            pieces = cells if is_whole else [word for cell in cells for word in cell.split()]
            min_width = max((piece.cell_len for piece in pieces), default=0)
            needed += min_width + BORDER
            justify = "right" if heading in self.right else "left"
            box.add_column(Text(heading), no_wrap=is_whole, min_width=min_width, justify=justify)
        for row in self.rows:
            box.add_row(*map(Text, row))
        return box if needed <= width else None

    def blocks(self) -> list[str]:
        """Return one block of lines per row, each line a heading and its cell."""
        indent = max(map(len, self.headings)) + 2
        lines = [self.title] if self.title else []
        for row in self.rows:
            lines += ["", *(f"{heading:{indent}}{cell}".rstrip() for heading, cell in zip(self.headings, row, strict=True))]
        return lines


def show(*tables: Table) -> None:
    """Print tables to standard output."""
    for index, table in enumerate(tables):
        if index:
            sys.stdout.write("\n")
        if not sys.stdout.isatty():
            _write(table.tab_separated())
            continue
        console = Console()
        box = table.boxed(console.width)
        if box is None:
            _write(table.blocks())
        else:
            console.print(box)


def _write(lines: list[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
