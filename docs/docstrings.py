"""Prepare docstrings for the reference."""

from __future__ import annotations

import re

import griffe


class Docstrings(griffe.Extension):
    """Let griffe read our examples as doctests, and leave out what only `print` calls."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section `Example:` of a docstring, and hide `extra_repr`."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:(?=.*\n +>>>)", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
        if obj.name == "extra_repr":
            obj.docstring = None  # what has no docstring is not shown
