"""Fill the tables in that the site's pages have a marker for, as an extension of Python-Markdown."""

from __future__ import annotations

import re

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from tables import mechanism_table, scale_table

MARKER = re.compile(r"<!-- (mechanisms|scale)(?:: (\S*))? -->")
"""`<!-- scale -->`, or `<!-- mechanisms: FOLDER -->` with the path from the page to the mechanisms' pages."""


class _Fill(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return fill("\n".join(lines)).split("\n")


class Tables(Extension):
    """Replaces the markers."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # Markdown's name
        """Run before all other preprocessors."""
        md.preprocessors.register(_Fill(md), "tables", 1000)


def fill(text: str) -> str:
    """Return a page with its markers replaced."""
    return MARKER.sub(lambda found: scale_table() if found[1] == "scale" else mechanism_table(found[2]), text)
