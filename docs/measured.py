"""Put what a program has measured between two markers of a page."""

from __future__ import annotations

END = "<!-- end of measured -->"


def renewed(page: str, program: str, text: str) -> str:
    r"""Return the page with new text between the markers of a program.

    >>> renewed("a\n<!-- measured: written by b.py -->\nold\n<!-- end of measured -->\nc", "b.py", "new")
    'a\n<!-- measured: written by b.py -->\nnew\n<!-- end of measured -->\nc'

    Raises:
        ValueError: the page has no such markers.
    """
    begin = f"<!-- measured: written by {program} -->"
    before, found, rest = page.partition(begin)
    _, is_closed, after = rest.partition(END)
    if not (found and is_closed):
        raise ValueError(f"expected a page with {begin!r} and {END!r}")
    return f"{before}{begin}\n{text}\n{END}{after}"
