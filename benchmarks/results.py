"""The file of results: a CSV table to which finished rows are appended, so that a killed run continues."""

import csv
import io
import os
from pathlib import Path

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
OWN = ("library", "runtime", "dtype", "baseline", "speedup", "difference", "prepare_seconds", "rounds")
COLUMNS = (*TIMM, *OWN, *MACHINE, "mm_gflops", "load", "date", "error")


class OtherColumnsError(Exception):
    """The file is not one of this program's tables."""


class Results:
    """A table in a file. Rows are dictionaries from columns to text.

    A row is appended by one write of a whole line. A line that a killed run left unfinished is removed.
    """

    def __init__(self, path):
        self.path = Path(path)
        text = self.path.read_text() if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole)))
        header = tuple(whole.partition("\n")[0].split(","))
        if whole and header != COLUMNS:
            raise OtherColumnsError(
                f"{path} must have the columns of this table, got {whole[:60]!r}; name another file"
            )
        if whole != text:
            os.truncate(self.path, len(whole.encode()))
        if not whole:
            self._write(COLUMNS)
        self.rows = rows

    def append(self, row):
        """Add a row; columns that it lacks are empty."""
        self._write([row.get(column, "") for column in COLUMNS])
        self.rows.append({column: row.get(column, "") for column in COLUMNS})

    def find(self, case, machine):
        """Return the last row of a case on a machine, or None."""
        wanted = {**case, **machine}
        columns = (*CASE, *MACHINE)
        return next(
            (row for row in reversed(self.rows) if all(row[column] == wanted[column] for column in columns)), None
        )

    def _write(self, cells):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([" ".join(cell.split()) for cell in cells])
        with self.path.open("ab", buffering=0) as file:
            file.write(line.getvalue().encode())
            os.fsync(file.fileno())
