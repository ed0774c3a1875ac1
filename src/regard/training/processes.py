"""What the processes of a job tell each other."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from regard.errors import RegardError

Value = TypeVar("Value")

GOING, SAVE, STOP, FAILED = range(4)
"""What a process asks the others for: nothing, a checkpoint, to save and end, or to end because it failed."""


def count() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def sum_over(values: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes, on the CPU."""
    if count() == 1:
        return values
    total = values.to(device)
    distributed.all_reduce(total)
    return total.cpu()


def share_buffers(model: nn.Module) -> None:
    """Give the buffers of a model the values of the first process."""
    if count() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def agree(wish: int, device: torch.device) -> int:
    """Return the most urgent wish of all processes.

    Raises:
        RegardError: another process has ended.
    """
    if count() == 1:
        return wish
    urgent = torch.tensor(wish, device=device)
    try:
        distributed.all_reduce(urgent, op=distributed.ReduceOp.MAX)
    except RuntimeError as error:
        raise lost(error) from error
    return int(urgent)


def gather(value: Value) -> list[Value]:
    """Return a value of every process, in the order of the processes."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def first_error(error: Exception | None) -> Exception | None:
    """Return this process's error, or else that of the first process that has one."""
    sent = error if error is None or isinstance(error, RegardError) else RegardError(f"{type(error).__name__}: {error}")
    found = next((each for each in gather(sent) if each is not None), None)
    return found if error is None else error


def is_lost(error: Exception) -> bool:
    """Whether an error says that the connection to another process has ended."""
    return isinstance(error, distributed.DistError) or "connection" in str(error).lower()


def lost(error: Exception) -> ProcessLostError:
    """Return the error for a process that ended without a word."""
    return ProcessLostError(
        f"expected all {count()} processes to go on, got an end of the connection to one of them "
        f"({str(error).splitlines()[0]}); see its own messages, then continue with --resume"
    )


class ProcessLostError(RegardError):
    """Another process of the job has ended."""


def expected() -> int:
    """Return the number of processes that the launcher of this job has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether the launcher counts this process as the first one."""
    return os.environ.get("RANK", "0") == "0"
