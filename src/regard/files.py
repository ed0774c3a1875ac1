"""Writing files in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; flush it to the disk and move it to `path` afterwards.

    The file at `path` is the old one or the new one, whole, whenever the program or the machine stops.

    Example:
        >>> file = getfixture("tmp_path") / "notes.txt"
        >>> with replacing(file) as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> file.read_text()
        'all of it'
    """
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        with suppress(OSError):  # not every file system can flush a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)
