"""Output files that are checked before the work and replaced after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regard.errors import DataError
from regard.files import replacing


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file to write, and move it to `path` at the end; after an error, `path` is as it was.

    Raises:
        DataError: the file cannot be written. This is checked before the body of the `with` statement runs.

    Example:
        >>> file = getfixture("tmp_path") / "numbers.txt"
        >>> with writing(file) as unfinished:
        ...     _ = unfinished.write_text("1 2 3")
        >>> file.read_text()
        '1 2 3'
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"expected the name of a file to write, got the folder {str(path)!r}; add a file name")
    if not path.parent.is_dir():
        raise DataError(
            f"expected a file that can be written, got {str(path)!r}, but {str(path.parent)!r} is no folder; name a "
            "file in a folder that exists"
        )
    with replacing(path) as unfinished:
        try:
            unfinished.touch()
        except OSError as error:
            raise DataError(
                f"expected a file that can be written, got {str(path)!r} ({error.strerror}); choose another folder"
            ) from error
        yield unfinished
