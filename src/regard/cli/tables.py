"""Print tables: aligned on a terminal, tab-separated in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

GAP = 2  # spaces between columns


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

    def aligned(self, width: int) -> RichTable | None:
        """Return the table for rich to print, or None if `width` characters are too few for it."""
        table = RichTable(box=None)
        table.pad_edge, table.padding = False, (0, GAP, 0, 0)
        needed = -GAP
        for index, heading in enumerate(self.headings):
            is_whole = heading in self.whole
            cells = [row[index] for row in (self.headings, *self.rows)]
            pieces = cells if is_whole else [word for cell in cells for word in cell.split()]
            min_width = max(map(cell_len, pieces))
            needed += min_width + GAP
            justify: Literal["left", "right"] = "right" if heading in self.right else "left"
            table.add_column(Text(heading), no_wrap=is_whole, min_width=min_width, justify=justify)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table if needed <= width else None

    def blocks(self) -> list[str]:
        """Return one block of lines per row, each line a heading and its cell."""
        indent = max(map(len, self.headings)) + GAP
        lines = [self.title] if self.title else []
        for row in self.rows:
            named = zip(self.headings, row, strict=True)
            lines += ["", *(f"{heading:{indent}}{cell}".rstrip() for heading, cell in named)]
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
        aligned = table.aligned(console.width)
        if aligned is None:
            _write(table.blocks())
        else:
            _write([table.title] if table.title else [])
            console.print(aligned)


def _write(lines: list[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
