"""Checkpoints of a run: everything that training needs to continue, written atomically and in the background."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from regard.errors import DataError
from regard.files import replacing

FOLDER = "checkpoints"
PATTERN = re.compile(r"epoch(\d+)-step(\d+)\.pt")


class Checkpoints:
    """The checkpoints in the folder of a run. The last ones are kept.

    A state is copied when it is saved, and written by a thread while training goes on. A file is complete or absent:
    it is written under another name, flushed to the disk and renamed.

    Args:
        run: the folder of the run.
        keep: number of checkpoints to keep.

    Example:
        >>> checkpoints = Checkpoints(getfixture("tmp_path"), keep=1)
        >>> checkpoints.save(epoch=1, step=3, state={"weight": torch.ones(2)})
        >>> checkpoints.close()
        >>> load_last(getfixture("tmp_path"))["weight"]
        tensor([1., 1.])
    """

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.folder, self.keep = run / FOLDER, keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def save(self, *, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Copy a state and write it in the background, after `step` steps of an epoch.

        Raises:
            DataError: an earlier checkpoint could not be written.
        """
        self.wait()
        copied = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu().clone(), dict(state))
        self._pending = self._writer.submit(self._write, f"epoch{epoch:05}-step{step:07}.pt", copied)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            DataError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
            last = checkpoint_files(self.folder)
            kept = f"{str(last[-1])!r} is the last good one" if last else "there is no earlier one"
            raise DataError(
                f"expected to write a checkpoint into {str(self.folder)!r}, got {error}; {kept}: free some space, then "
                f"continue with --resume {self.folder.parent}"
            ) from error

    def close(self) -> None:
        """Wait for the last checkpoint and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(self, name: str, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self.folder.glob(".*.pt"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)
        with replacing(self.folder / name) as file:
            torch.save(state, file)
        for old in checkpoint_files(self.folder)[: -self.keep]:
            old.unlink(missing_ok=True)


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the one written last at the end."""
    found = [path for path in folder.glob("*.pt") if PATTERN.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def load_last(run: Path) -> dict[str, Any] | None:
    """Return the last state that was saved in the folder of a run, with all tensors on the CPU, or None.

    Raises:
        DataError: it cannot be read.
    """
    files = checkpoint_files(run / FOLDER)
    if not files:
        return None
    try:
        state: dict[str, Any] = torch.load(files[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip raise many types
        raise DataError(
            f"expected a checkpoint in {str(files[-1])!r}, got {error}; delete the file to resume from an earlier one"
        ) from error
    return state
