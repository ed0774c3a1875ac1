"""The models' table: a CSV file to which finished rows are appended, so that a stopped run continues."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from regard.benchmark.machine import facts
from regard.errors import DataError

Row = dict[str, str]
TIMM = (
    "model",
    "infer_samples_per_sec",
    "infer_step_time",
    "infer_batch_size",
    "infer_img_size",
    "infer_gmacs",
    "infer_macts",
    "param_count",
)
CASE = ("model", "library", "runtime", "infer_batch_size", "infer_img_size")
MACHINE = ("processor", "instruction_set", "torch_capability", "cores", "threads", "python", "torch", "timm", "regard")
OWN = ("library", "runtime", "dtype", "baseline", "speedup", "spread", "difference", "prepare_seconds", "rounds")
COLUMNS = (*TIMM, *OWN, *MACHINE, "mm_gflops", "load", "steal", "date", "error")


class Results:
    """A table in a file. Rows are dictionaries from columns to text.

    A row is appended by one write of a whole line. A line that a killed run left unfinished is removed.

    Args:
        path: of the file, which may be missing or empty.

    Raises:
        DataError: the file cannot be written, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("ab"):  # before the long work
                text = self.path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected a CSV file that can be written, got {str(path)!r} ({error})") from error
        whole = text[: text.rfind("\n") + 1]
        header = tuple(whole.partition("\n")[0].rstrip("\r").split(","))
        if whole and header != COLUMNS:
            raise DataError(
                f"expected a file with the columns of `regard bench models`, got {str(path)!r}, which begins with "
                f"{whole[:60]!r}; name another file"
            )
        self.rows: list[Row] = list(csv.DictReader(io.StringIO(whole, newline="")))
        if whole != text:
            os.truncate(self.path, len(whole.encode()))
        if not whole:
            self._write(COLUMNS)

    def append(self, row: Row) -> None:
        """Add a row; columns that it lacks are empty."""
        self._write([row.get(column, "") for column in COLUMNS])
        self.rows.append({column: row.get(column, "") for column in COLUMNS})

    def find(self, case: Mapping[str, str]) -> Row | None:
        """Return the last row of a case on this machine, or None."""
        here = {column: str(value) for column, value in facts().items() if column in MACHINE}
        wanted = {**case, **here}
        return next((row for row in reversed(self.rows) if wanted.items() <= row.items()), None)

    def _write(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([" ".join(cell.split()) for cell in cells])
        with self.path.open("ab", buffering=0) as file:
            file.write(line.getvalue().encode())
            os.fsync(file.fileno())
